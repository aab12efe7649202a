"""Where the numbers of a run go: console line, metrics.jsonl and TensorBoard."""

import json
import logging
import time
from typing import Any

import tensorboardX
from etils import epath

LOG = logging.getLogger("legion_jax")


class MetricsLog:
    """Writes the metrics of a run; a restarted run first drops what came after its checkpoint.

    Lines of `metrics.jsonl` hold nothing that depends on the clock, so a run that was killed and
    resumed writes the same file as one that was not. Speed goes to the console and TensorBoard.
    """

    def __init__(self, workdir: epath.Path, *, start: int, total: int):
        """Open the files of a run that is about to do step `start` of `total`."""
        self.path = workdir / "metrics.jsonl"
        self.total = total
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) < start]
            write_text(self.path, "".join(line + "\n" for line in kept))
        self.tensorboard = tensorboardX.SummaryWriter(str(workdir / "tensorboard"),
                                                      purge_step=start)
        self._since, self._step = time.monotonic(), start

    def write(self, rows: list[tuple[int, dict[str, float]]], *, images_per_step: int) -> None:
        """Log the metrics of consecutive steps [(step, values), ...]; print the last of them."""
        with self.path.open("a") as file:
            for step, values in rows:
                file.write(json.dumps({"step": step} | values) + "\n")
        step, values = rows[-1]
        now = time.monotonic()
        speed = (step + 1 - self._step) / max(now - self._since, 1e-9)
        self._since, self._step = now, step + 1
        for row_step, row in rows:
            for name, value in row.items():
                self.tensorboard.add_scalar(name, value, row_step)
        self.tensorboard.add_scalar("images_per_second", speed * images_per_step, step)
        shown = "  ".join(f"{k} {values[k]:.4g}" for k in
                          ("loss", "ce", "bce", "dice", "verdict", "grad_norm", "learning_rate"))
        LOG.info("step %d/%d  %s  %.1f images/s  %s left", step + 1, self.total, shown,
                     speed * images_per_step, duration((self.total - step - 1) / speed))

    def close(self) -> None:
        self.tensorboard.close()


def duration(seconds: float) -> str:
    """12.3 s, 4 min 5 s or 2 h 3 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def write_json(path: epath.PathLike, value: Any) -> None:
    """Indented JSON, complete or not there at all."""
    write_text(epath.Path(path), json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: epath.Path, text: str) -> None:
    """Text, complete or not there at all."""
    temporary = path.parent / f".{path.name}.writing"
    temporary.write_text(text)
    temporary.replace(path)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # half a line, left by a kill

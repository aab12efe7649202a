"""Where the numbers of a run go: console line, metrics.jsonl and TensorBoard."""

import json
import logging
from collections.abc import Sequence

import numpy as np
from etils import epath

from input_pipeline.files import write_text
from legion_jax.display.numbers import duration

LOG = logging.getLogger("legion_jax")


class MetricsLog:
    """Writes the metrics of a run; a restarted run first drops what came after its checkpoint.

    Lines of `metrics.jsonl` hold nothing that depends on the clock, so a run that was killed and
    resumed writes the same file as one that was not. Speed goes to the console and TensorBoard.
    """

    def __init__(self, workdir: epath.Path, *, start: int, total: int):
        """Open the files of a run that is about to do step `start` of `total`."""
        import tensorboardX  # late: where PyTorch is installed, it loads that too

        self.path = workdir / "metrics.jsonl"
        self.total = total
        if self.path.exists():
            before = [line for line in self.path.read_text().splitlines()
                      if _step_of(line) < start]
            write_text(self.path, "".join(line + "\n" for line in before))
        self.tensorboard = tensorboardX.SummaryWriter(str(workdir / "tensorboard"),
                                                      purge_step=start)

    def write(self, rows: list[tuple[int, dict[str, float]]], rates: dict[str, float]) -> None:
        """Log the metrics of consecutive steps [(step, values), ...]; print the last of them.

        Args:
            rates: how fast these steps were, see `legion_jax.train.speed`.
        """
        with self.path.open("a") as file:
            for step, values in rows:
                file.write(json.dumps({"step": step} | values) + "\n")
        for row_step, row in rows:
            for name, value in row.items():
                self.tensorboard.add_scalar(name, value, row_step)
        step, values = rows[-1]
        for name, value in rates.items():
            self.tensorboard.add_scalar(name, value, step)
        LOG.info("step %d/%d  %s", step + 1, self.total,
                 "  ".join(_losses(values) + _speeds(rates, self.total - step - 1)))

    def add_pictures(self, step: int, pictures: Sequence[np.ndarray]) -> None:
        """Show uint8[H, W, 3] each in TensorBoard, as they are after update `step`."""
        for number, picture in enumerate(pictures, 1):
            self.tensorboard.add_image(f"photo_{number}", picture, step, dataformats="HWC")

    def close(self) -> None:
        self.tensorboard.close()


def _losses(values: dict[str, float]) -> list[str]:
    return [f"{name} {values[name]:.4g}" for name in (
        "loss", "ce", "bce", "dice", "verdict", "grad_norm", "learning_rate")]


def _speeds(rates: dict[str, float], left: int) -> list[str]:
    """What is known of the speed; `left` updates are to do."""
    if not rates:
        return []
    speeds = [f"{rates['examples_per_second']:.1f} examples/s"]
    if "tokens_per_second" in rates:
        speeds.append(f"{rates['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in rates:
        speeds.append(f"MFU {100 * rates['mfu']:.1f} %")
    return [*speeds, f"{duration(left / rates['updates_per_second'])} left"]


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # half a line, left by a kill

"""Where the numbers of a run go: console line, metrics.jsonl and TensorBoard."""

import json
import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from etils import epath

from input_pipeline import buckets, files
from input_pipeline.paths import is_uri
from legion_jax.display.numbers import duration

LOG = logging.getLogger("legion_jax")
FILE = "metrics.jsonl"
SEGMENTS = "metrics_segments"  # folder in a bucket: what was logged since the run started
EVENT_BYTES = 4 << 20  # of an event file in a bucket, which is sent whole each time it grows


class MetricsLog:
    """Writes the metrics of a run; a restarted run first drops what came after its checkpoint.

    Lines of `metrics.jsonl` hold nothing that depends on the clock, so a run that was killed and
    resumed writes the same file as one that was not. Speed goes to the console and TensorBoard.
    """

    def __init__(self, workdir: epath.Path, *, start: int, total: int):
        """Open the files of a run that is about to do step `start` of `total`."""
        self.total = total
        self._lines = (_Segments if is_uri(workdir) else _Appended)(workdir, start)
        folder = workdir / "tensorboard"
        self._events = (_SentEvents if is_uri(workdir) else _Events)(folder, start)

    def write(self, rows: list[tuple[int, dict[str, float]]], rates: dict[str, float]) -> None:
        """Log the metrics of consecutive steps [(step, values), ...]; print the last of them.

        Args:
            rates: how fast these steps were, see `legion_jax.train.speed`.
        """
        self._lines.write(rows[0][0], "".join(
            json.dumps({"step": step} | values) + "\n" for step, values in rows))
        writer = self._events.writer
        for row_step, row in rows:
            for name, value in row.items():
                writer.add_scalar(name, value, row_step)
        step, values = rows[-1]
        for name, value in rates.items():
            writer.add_scalar(name, value, step)
        self._events.send()
        LOG.info("step %d/%d  %s", step + 1, self.total,
                 "  ".join(_losses(values) + _speeds(rates, self.total - step - 1)))

    def add_pictures(self, step: int, pictures: Sequence[np.ndarray]) -> None:
        """Show uint8[H, W, 3] each in TensorBoard, as they are after update `step`."""
        for number, picture in enumerate(pictures, 1):
            self._events.writer.add_image(f"photo_{number}", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left; in a bucket, make one file of the segments."""
        self._lines.close()
        self._events.close()


class _Appended:
    """The lines of a run on a disk."""

    def __init__(self, workdir: epath.Path, start: int):
        self._path = workdir / FILE
        if self._path.exists():
            files.write_text(self._path, _merged([self._path.read_bytes()], before=start))

    def write(self, step: int, lines: str) -> None:
        with self._path.open("a") as file:
            file.write(lines)

    def close(self) -> None:
        pass


class _Segments:
    """The lines of a run in a bucket, where nothing can be appended: an object for each write.

    They are merged when the run ends, and when it is started again after a kill.
    """

    def __init__(self, workdir: epath.Path, start: int):
        self._path, self._folder = workdir / FILE, workdir / SEGMENTS
        self._merge(before=start)

    def write(self, step: int, lines: str) -> None:
        files.write_text(self._folder / f"{step:012d}.jsonl", lines)

    def close(self) -> None:
        self._merge(before=math.inf)

    def _merge(self, *, before: float) -> None:
        parts = [*([self._path] if self._path.exists() else []), *files.listed(self._folder)]
        if parts:
            files.write_text(self._path, _merged(buckets.read_all(parts), before=before))
            files.remove_tree(self._folder)


def _merged(contents: Sequence[bytes], *, before: float) -> str:
    """The lines of steps below `before`, in order; of two lines of a step the later one."""
    lines = {_step_of(line): line for content in contents for line in content.decode().splitlines()}
    return "".join(f"{lines[step]}\n" for step in sorted(lines) if step < before)


class _Events:
    """TensorBoard's files on a disk."""

    def __init__(self, folder: epath.PathLike, start: int):
        import tensorboardX  # late: where PyTorch is installed, it loads that too
        self.writer = tensorboardX.SummaryWriter(str(folder), purge_step=start)

    def send(self) -> None:
        """Nothing: the writer sees to it."""

    def close(self) -> None:
        self.writer.close()


class _SentEvents:
    """TensorBoard's files in a bucket: written on this machine's disk and sent when they grow.

    An object is sent whole each time, so that a file begins anew before that is much.
    """

    def __init__(self, folder: epath.Path, start: int):
        self._folder, self._scratch = folder, tempfile.TemporaryDirectory(prefix="legion-")
        self._number = 0
        self._begin(purge_step=start)

    def _begin(self, **options) -> None:
        import tensorboardX  # late, as above
        self._number += 1
        self._local = Path(self._scratch.name) / str(self._number)
        self.writer = tensorboardX.SummaryWriter(
            str(self._local), filename_suffix=f".{self._number}", **options)

    def send(self) -> None:
        """Send what was written since the last time."""
        self.writer.flush()
        for file in self._local.iterdir():
            buckets.put(file, self._folder / file.name)
            if file.stat().st_size > EVENT_BYTES:
                self.writer.close()
                self._begin()

    def close(self) -> None:
        self.send()
        self.writer.close()
        self._scratch.cleanup()


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
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf  # half a line, left by a kill

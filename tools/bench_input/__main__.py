"""How fast photos become batches, against decoding alone and against torch's DataLoader.

    python -m tools.bench_input --data_dir data --tokenizer weights/tokenizer --peer
    python -m tools.bench_input --synthetic 200 --tokenizer weights/tokenizer --peer

The contestants take turns in one process tree, so that a busy machine slows all of them alike:
`floor` decodes the JPEGs and does nothing else, `ours` is the pipeline of a training run up to
numpy batches, `peer` a DataLoader with one worker per core that makes float32 inputs the plain way.
CPU seconds are counted besides, since they depend less on what else runs. Last comes one line of
JSON. With --synthetic the photos are made in a temporary folder, 1024 x 1024 pixels.
"""

import contextlib
import functools
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from input_pipeline.batches import loader
from input_pipeline.batches.examples import (
    ExampleSpec,
    blank_example,
    text_length,
    training_example,
)
from input_pipeline.batches.stream import Stream
from input_pipeline.errors import UserError
from input_pipeline.photos.views import CanvasView, CropView
from input_pipeline.records import prepared
from input_pipeline.text.conversation import INSTRUCTION
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax import command
from legion_jax.display.console import DataConsole
from tools.bench_input import input_contest, stages

CHECKED, STAGED = 8, 32  # photos that are compared, and whose stages are timed
TOLERANCE = 1e-5  # of SAM's normalised values
_KEPT_FILES = 256  # of `floor`, in memory


def define_flags() -> None:
    flags.DEFINE_string("data_dir", None, "Folder written by tools.prepare_data.")
    flags.DEFINE_string("split", "train", "Split of it.")
    flags.DEFINE_integer("synthetic", 0, "Measure with this many photos made up for it.")
    flags.DEFINE_string("tokenizer", None, "Folder with tokenizer.model.", required=True)
    flags.DEFINE_integer("clip", 336, "Side of CLIP's view.", lower_bound=1)
    flags.DEFINE_integer("sam", 1024, "Side of SAM's canvas.", lower_bound=1)
    flags.DEFINE_integer("sam_longest", 0, "Longer side of the photo on it; 0: all of it.")
    flags.DEFINE_integer("mask_slots", 8, "Masks per photo.", lower_bound=1)
    flags.DEFINE_integer("mask_canvas", 1024, "Side of the frame of masks.", lower_bound=8)
    flags.DEFINE_integer("text_length", 961, "Ids per row at most.", lower_bound=1)
    flags.DEFINE_list("buckets", ["256", "384", "512"], "Shorter lengths a batch may have.")
    flags.DEFINE_integer("batch_size", 8, "Photos per batch.", lower_bound=1)
    flags.DEFINE_float("seconds", 20, "Of measuring, for each contestant.", lower_bound=0.01)
    flags.DEFINE_integer("rounds", 5, "Turns that time is divided into.", lower_bound=1)
    flags.DEFINE_integer("threads", os.cpu_count(), "Threads of floor and ours.", lower_bound=1)
    flags.DEFINE_integer("workers", 0, "Processes of ours, each with --threads.", lower_bound=0)
    flags.DEFINE_bool("reduced_decoding", False, "Decode large JPEGs at a part of their size.")
    flags.DEFINE_bool("peer", False, "Measure torch's DataLoader too, and compare with it.")


@contextlib.contextmanager
def folder_of(options) -> Iterator[str]:
    """The prepared data set; a made-up one is removed in the end. Raises UserError."""
    if bool(options.data_dir) == bool(options.synthetic):
        raise UserError("one of --data_dir and --synthetic")
    if options.data_dir:
        yield options.data_dir
        return
    from input_pipeline.datasets import open_dataset
    from input_pipeline.records.builder import prepare
    from tools.bench_input import synthetic
    with tempfile.TemporaryDirectory(prefix="bench_input_") as folder:
        source = pathlib.Path(folder) / "source"
        synthetic.write(source, options.synthetic)
        prepare(open_dataset("synthscars/published", str(source)), f"{folder}/data")
        yield f"{folder}/data"


def contestants(options, folder: str, source, tokenizer, spec,
                stream) -> list[input_contest.Contestant]:
    """All that take turns."""
    threads, size = options.threads, options.batch_size
    rows = loader.Rows(stream, [source], names=[f"{folder} {options.split}"],
                       prepare=functools.partial(training_example, tokenizer, spec),
                       blank=functools.partial(blank_example, tokenizer, spec))
    files = [source[i].image for i in range(min(len(source), _KEPT_FILES))]
    entered = [input_contest.Floor(files, size, threads),
               input_contest.Ours(loader.train_batches(rows), threads=threads,
                                  workers=options.workers)]
    if options.peer:
        try:
            from tools.bench_input.torch_loader import PlainDataset
        except ImportError as error:
            raise UserError(f"--peer: needs torch ({error})") from error
        entered.append(input_contest.Peer(PlainDataset(folder, options.split, tokenizer, spec),
                                          len(source), batch_size=size, workers=os.cpu_count()))
    return entered


def measure(options, folder: str) -> dict:
    """Everything this command finds out, as JSON; `checks` and `peer` only with --peer."""
    tokenizer = Tokenizer.from_folder(options.tokenizer)
    spec = ExampleSpec(
        vision=CropView(options.clip),
        sam=CanvasView(options.sam, options.sam_longest or options.sam),
        text_length=options.text_length, mask_slots=options.mask_slots,
        mask_canvas=options.mask_canvas, instruction=INSTRUCTION,
        reduced_decoding=options.reduced_decoding)
    source = prepared.open_split(folder, options.split)
    lengths = np.array([text_length(source[i], tokenizer, spec) for i in range(len(source))])
    try:
        buckets = sorted({*map(int, options.buckets), options.text_length})
    except ValueError:
        raise UserError(f"--buckets: numbers, got {options.buckets}") from None
    stream = Stream([len(source)], weights=[1.0], batch_size=options.batch_size, seed=0,
                    buckets=buckets, lengths=[lengths])
    entered = contestants(options, folder, source, tokenizer, spec, stream)
    try:
        turns = input_contest.take_turns(entered, seconds=options.seconds, rounds=options.rounds)
        sizes = {contestant.name: input_contest.bytes_per_image(contestant.batch)
                 for contestant in entered[1:]}
    finally:
        for contestant in entered:
            contestant.close()
    result = {"photos": len(source), "cores": os.cpu_count(), "batch_size": options.batch_size,
              "threads": options.threads, "workers": options.workers, "rounds": options.rounds,
              "speed": {name: input_contest.medians(t) for name, t in turns.items()},
              "ratios": input_contest.ratios(turns), "bytes_per_image": sizes,
              "stage_ms": stages.stage_times(
                  source, tokenizer, spec, photos=STAGED, batch_size=options.batch_size,
                  length=buckets[min(int(np.searchsorted(buckets, np.median(lengths))),
                                     len(buckets) - 1)]),
              "mean_text_length": float(lengths.mean()),
              "padding": stages.padding(stream, lengths, options.text_length)}
    if options.peer:
        result["checks"] = stages.compare(source, spec, photos=CHECKED)
    return result


def show(result: dict, console: Console) -> None:
    speed = Table(title=f"images per second, {result['cores']} cores, median of "
                        f"{result['rounds']} turns", title_justify="left")
    for column in ("", "per host", "slowest", "fastest", "cores used", "per core second"):
        speed.add_column(column, justify="right" if column else "left")
    for name, row in result["speed"].items():
        speed.add_row(name, *(f"{row[key]:.1f}" for key in (
            "images_per_s", "slowest", "fastest", "cores", "images_per_core_s")))
    console.print(speed)
    ratios = Table("ratio, median of rounds", title_justify="left")
    ratios.add_column("per host", justify="right")
    ratios.add_column("per core second", justify="right")
    for name, row in result["ratios"].items():
        ratios.add_row(name, f"{row['images_per_s']:.2f}", f"{row['images_per_core_s']:.2f}")
    console.print(ratios)
    total = sum(result["stage_ms"].values())
    parts = Table("our stage, one thread")
    parts.add_column("ms per image", justify="right")
    parts.add_column("share", justify="right")
    for name, value in (result["stage_ms"] | {"together": total}).items():
        parts.add_row(name, f"{value:.2f}", f"{value / total:.0%}")
    console.print(parts)
    waste = Table(f"text length, mean {result['mean_text_length']:.0f}")
    waste.add_column("share of batches", justify="right")
    waste.add_column("padding", justify="right")
    for length, row in result["padding"].items():
        waste.add_row(length, f"{row['share_of_batches']:.0%}", f"{row['padding']:.0%}")
    console.print(waste)
    for name, size in result["bytes_per_image"].items():
        console.print(f"{name}: {size / 1e6:.2f} MB per image to the device")


def verdict(checks: dict, console: Console) -> int:
    """Prints whether both came to the same inputs; exit code."""
    passed = (not checks["clip_bytes_different"]
              and checks["sam_largest_difference"] <= TOLERANCE)
    console.print(f"{'same' if passed else 'DIFFERENT'} inputs over {checks['photos']} photos: "
                  f"{checks['clip_bytes_different']} CLIP bytes differ, SAM's values by "
                  f"{checks['sam_largest_difference']:.1e} at most")
    return 0 if passed else 1


def run() -> int:
    """Measures, prints tables and one line of JSON; exit code."""
    options, console = flags.FLAGS, DataConsole()
    with folder_of(options) as folder:
        result = measure(options, folder)
    show(result, console)
    code = verdict(result["checks"], console) if options.peer else 0
    print(json.dumps(result))
    return code


def main() -> None:
    """Measures as the command line says."""
    define_flags()
    command.run(run)


if __name__ == "__main__":
    main()

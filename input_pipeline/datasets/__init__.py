"""The data sets of the field, by name."""

from input_pipeline.dataset import DataSet
from input_pipeline.datasets.synthscars import SynthScars
from input_pipeline.record import DataError

ALL: dict[str, type[DataSet]] = {kind.name: kind for kind in (SynthScars,)}


def open_dataset(name: str, source: str) -> DataSet:
    """`NAME` or `NAME/CONFIG` with its downloaded files. Raises DataError naming what is known."""
    kind, _, config = name.partition("/")
    if kind not in ALL:
        raise DataError(f"no data set {kind!r}; known: {', '.join(ALL)}")
    return ALL[kind](source, config or next(iter(ALL[kind].configs)))

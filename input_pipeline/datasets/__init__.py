"""The data sets of the field, by name."""

from input_pipeline.datasets.ddvqa import DdVqa
from input_pipeline.datasets.dmimage import DmImage
from input_pipeline.datasets.fakeclue import FakeClue
from input_pipeline.datasets.folder_binary import ForenSynths, ProGan, UniversalFakeDetect
from input_pipeline.datasets.jsonl import Jsonl
from input_pipeline.datasets.loki import Loki
from input_pipeline.datasets.pal4vst import Pal4Vst
from input_pipeline.datasets.richhf import RichHF
from input_pipeline.datasets.sid_set import SidSet
from input_pipeline.datasets.synthscars import SynthScars
from input_pipeline.records.dataset import DataSet
from input_pipeline.records.record import DataError

ALL: dict[str, type[DataSet]] = {kind.name: kind for kind in (
    SynthScars, RichHF, Loki, Pal4Vst, FakeClue, DdVqa, ProGan, ForenSynths, UniversalFakeDetect,
    DmImage, SidSet, Jsonl)}


def open_dataset(name: str, source: str) -> DataSet:
    """`NAME` or `NAME/CONFIG` with its downloaded files. Raises DataError naming what is known."""
    kind, _, config = name.partition("/")
    if kind not in ALL:
        raise DataError(f"no data set {kind!r}; known: {', '.join(ALL)}")
    return ALL[kind](source, config or next(iter(ALL[kind].configs)))

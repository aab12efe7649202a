"""Reading a data set on many machines, by Apache Beam.

The items lie in a file while the pipeline runs: in the pipeline's graph, which runners limit to
some megabytes, there would be no room for a million of them.
"""

import json
import re
from collections.abc import Sequence

import apache_beam as beam
from etils import epath

from input_pipeline.records import manifest
from input_pipeline.records.dataset import DataSet, Item
from input_pipeline.records.manifest import LISTING, MANIFEST
from input_pipeline.records.record import DataError

_EMPTY = "no usable record"


def read_items(dataset: DataSet, split: str, items: Sequence[Item],
               folder: epath.Path) -> beam.PTransform:
    """Records of a split for TFDS to write, and the manifest in `folder`.

    Items whose id was there before are told apart here: workers do not know of each other.
    """
    seen = set()
    with (folder / f"{split}-{LISTING}").open("w") as lines:
        for item in items:
            lines.write(json.dumps([item.id, item.file, item.data, item.id in seen]) + "\n")
            seen.add(item.id)
    return _ReadItems(dataset, split, str(folder))


def as_data_error(error: Exception, dataset: DataSet) -> DataError | None:
    """What a pipeline failed for, if it was for want of records; runners wrap such an error."""
    text = str(error)
    if match := re.search(rf"(\w+): {_EMPTY}; [^\n'\"]*", text):
        return DataError(f"{dataset.source}: {match[0]}")
    # TFDS may be the first to see it.
    if match := re.search(r"examples is 0 for split (\w+)", text):
        return DataError(f"{dataset.source}: {match[1]}: {_EMPTY}")
    return None


class _ReadItems(beam.PTransform):
    def __init__(self, dataset, split, folder):
        super().__init__()
        self._dataset, self._split, self._folder = dataset, split, folder

    def expand(self, pipeline):
        split, start = self._split, f"{self._folder}/{self._split}"
        read = (pipeline | f"list {split}" >> beam.io.ReadFromText(f"{start}-{LISTING}")
                | f"spread {split}" >> beam.Reshuffle()
                | f"read {split}" >> beam.ParDo(
                    _Read(self._dataset, split)).with_outputs("entry", main="record"))
        _ = (read.entry | f"manifest of {split}" >> beam.io.WriteToText(f"{start}-{MANIFEST}"))
        _ = (read.entry | f"outcome of {split}" >> beam.Map(_outcome)
             | f"count {split}" >> beam.combiners.Count.PerElement()
             | f"all counts of {split}" >> beam.combiners.ToList()
             | f"check {split}" >> beam.Map(_check, split))
        return read.record


class _Read(beam.DoFn):
    def __init__(self, dataset, split):
        self._dataset, self._split = dataset, split

    def process(self, line):
        from input_pipeline.records.dataset import read_item
        name, file, data, repeated = json.loads(line)
        entry, features = read_item(self._dataset, self._split, Item(name, file, data))
        if repeated:
            entry, features = manifest.duplicate(entry), None
        yield beam.pvalue.TaggedOutput("entry", json.dumps(entry))
        if features is not None:
            yield features["id"], features


def _outcome(line: str) -> str:
    entry = json.loads(line)
    return entry["reason"] if entry["status"] == "skipped" else ""


def _check(counts: list[tuple[str, int]], split: str) -> None:
    if all(reason for reason, _ in counts):
        text = ", ".join(f"{number} {reason}" for reason, number in sorted(counts))
        raise DataError(f"{split}: {_EMPTY}; {text or 'it holds no items'}")

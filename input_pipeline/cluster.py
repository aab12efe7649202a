"""Reading a data set on many machines, by Apache Beam."""

import json
from collections.abc import Sequence

import apache_beam as beam
from etils import epath

from input_pipeline import manifest
from input_pipeline.dataset import DataSet, Item


def read_items(dataset: DataSet, split: str, items: Sequence[Item],
               path: epath.Path) -> beam.PTransform:
    """Records of a split for TFDS to write, and the manifest beside them.

    Items whose id was there before are told apart here: workers do not know of each other.
    """
    seen, jobs = set(), []
    for item in items:
        jobs.append((item, item.id in seen))
        seen.add(item.id)
    return _ReadItems(dataset, split, jobs, str(path))


class _ReadItems(beam.PTransform):
    def __init__(self, dataset, split, jobs, path):
        super().__init__()
        self._dataset, self._split, self._jobs, self._path = dataset, split, jobs, path

    def expand(self, pipeline):
        read = (pipeline | f"items of {self._split}" >> beam.Create(self._jobs)
                | f"spread {self._split}" >> beam.Reshuffle()
                | f"read {self._split}" >> beam.ParDo(
                    _Read(self._dataset, self._split)).with_outputs("entry", main="record"))
        _ = (read.entry | f"manifest of {self._split}" >> beam.io.WriteToText(self._path))
        return read.record


class _Read(beam.DoFn):
    def __init__(self, dataset, split):
        self._dataset, self._split = dataset, split

    def process(self, job):
        from input_pipeline.builder import read_item
        item, repeated = job
        entry, features = read_item(self._dataset, self._split, item)
        if repeated:
            entry, features = manifest.duplicate(entry), None
        yield beam.pvalue.TaggedOutput("entry", json.dumps(entry))
        if features is not None:
            yield features["id"], features

"""Records of a split -> shuffled ArrayRecord files as TFDS lays them out, whatever their size.

TFDS keeps up to 1000 MiB in memory and then spills through TensorFlow. Here a record waits in a
temporary file, and memory holds where it lies: 32 bytes each. Order and files are TFDS' own.
"""

import array
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import example_serializer, file_adapters, hashing
from tensorflow_datasets.core.utils import shard_utils
from tqdm import tqdm

from input_pipeline.records.record import DataError

HALF = (1 << 64) - 1
PLACE = np.dtype([("high", "u8"), ("low", "u8"), ("start", "u8"), ("size", "u8")])


def write_split(split: str, examples: Iterator[tuple[str, dict]],
                features: tfds.features.FeaturesDict,
                template: tfds.core.ShardedFileTemplate) -> tfds.core.SplitInfo:
    """Write (key, features) pairs in the order of the keys' hashes.

    The folder that `template` names needs room for the records twice.

    Raises DataError for a folder without room and two keys of one hash, and what `examples` raises.
    """
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    with tempfile.TemporaryFile(dir=template.data_dir, buffering=0) as waiting:
        places = _wait(waiting, split, ((key, serializer.serialize_example(
            features.encode_example(example))) for key, example in examples), template.data_dir)
        places.sort(order=["high", "low"])
        if np.any((places[1:]["high"] == places[:-1]["high"])
                  & (places[1:]["low"] == places[:-1]["low"])):
            raise DataError(f"{split}: two records have one hash; rename one of them")
        size, number = int(places["size"].sum()), len(places)
        shards = shard_utils.ShardConfig().get_number_shards(size, number)
        ends = [0, *shard_utils.get_shard_boundaries(number, shards)]
        with tqdm(total=size, desc=f"writing {split}", unit="B", unit_scale=True) as progress:
            for shard, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
                _write_shard(template.sharded_filepath(shard_index=shard, num_shards=shards),
                             waiting, places[start:end], progress)
    return tfds.core.SplitInfo(name=split, num_bytes=size, filename_template=template,
                               shard_lengths=np.diff(ends).tolist())


def _wait(waiting: BinaryIO, split: str, records: Iterator[tuple[str, bytes]],
          folder: epath.Path) -> np.ndarray:
    """Append records to a file in `folder`; returns where each lies, PLACE[N]."""
    hasher, numbers, start = hashing.Hasher(split), array.array("Q"), 0
    for key, content in records:
        number = hasher.hash_key(key)
        numbers.extend((number >> 64, number & HALF, start, len(content)))
        start += len(content)
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[waiting.write(rest):]
        except OSError as error:
            raise DataError(f"{folder}: cannot be written: {error.strerror}") from error
    return np.frombuffer(numbers, PLACE).copy()


def _write_shard(path: epath.Path, waiting: BinaryIO, places: np.ndarray, progress: tqdm) -> None:
    def records():
        for place in places:
            waiting.seek(int(place["start"]))
            content = waiting.read(int(place["size"]))
            if len(content) < place["size"]:
                raise DataError(f"{path}: a record that was put aside cannot be read again whole")
            yield None, content
            progress.update(len(content))

    file_adapters.ArrayRecordFileAdapter.write_examples(path, records())

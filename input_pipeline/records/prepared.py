"""Prepared data sets, opened for reading; neither TensorFlow nor the source is needed."""

import functools
import re
import tempfile
from collections.abc import Sequence

import tensorflow_datasets as tfds
from etils import epath

from input_pipeline import strict_json
from input_pipeline.errors import first_line
from input_pipeline.files import check_plain
from input_pipeline.paths import is_link, is_uri, parse
from input_pipeline.records import record
from input_pipeline.records.record import DataError, Record, RecordError

COMPLETE = "dataset_info.json"  # by which a whole data set is known
LARGEST = 16 << 20  # bytes of a file that describes one; a shard takes a dozen
MOST_SHARDS = 100_000  # TFDS makes a name for each


def find_version(data_dir: epath.PathLike) -> epath.Path:
    """The one complete data set folder at or below data_dir. Raises DataError."""
    versions = find_versions(data_dir)
    if len(versions) > 1:
        names = ", ".join(str(path) for path in versions)
        raise DataError(f"{data_dir}: several data sets here, name one of: {names}")
    return versions[0]


def find_versions(data_dir: epath.PathLike) -> list[epath.Path]:
    """Every complete data set folder at or below data_dir, by path. Raises DataError without."""
    root = parse(data_dir)
    if (root / COMPLETE).exists():
        return [root]
    versions = sorted(
        path.parent
        for depth in ("*", "*/*", "*/*/*", "*/*/*/*")
        for path in root.glob(f"{depth}/{COMPLETE}")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)  # unfinished ones have a longer name
    )
    if not versions:
        raise DataError(f"{root}: no prepared data set here")
    return versions


def open_folder(folder: epath.Path) -> tfds.core.DatasetBuilder:
    """TFDS' reader of a complete data set folder.

    The folder may be anybody's: TFDS would import whatever classes its `features.json` names, so
    it is asked only where that says what our own would, to the letter. Links are not followed.

    Raises DataError for a folder that is damaged, whose records are not ours or lie elsewhere.
    """
    check_described(folder)
    try:
        builder = tfds.builder_from_directory(str(folder))
        files = {name: [epath.Path(file) for file in split.filepaths]
                 for name, split in builder.info.splits.items()}
    except Exception as error:  # TFDS raises nearly anything on damaged files
        raise DataError(f"{folder}: not a readable data set: {first_line(error)}") from error
    for name, paths in files.items():
        if not re.fullmatch(r"\w+", name):
            raise DataError(f"{folder}: a split is called {ascii(name)}")
        for path in paths:
            if path.parent != folder or is_link(path):
                raise DataError(f"{folder}: split {name}: {ascii(str(path))} lies elsewhere; only "
                                f"files in the folder itself are read")
            check_plain(path, DataError)
    return builder


def check_described(folder: epath.Path) -> None:
    """Raise DataError unless both files that describe a data set can be given to TFDS."""
    described = strict_json.read(folder / "features.json", error=DataError, largest=LARGEST)
    info = strict_json.read(folder / COMPLETE, error=DataError, largest=LARGEST)
    if described != (own := _own_features()):
        theirs, ours = (value.get("featuresDict", {}).get("features", {}) if isinstance(
            value.get("featuresDict"), dict) else {} for value in (described, own))
        names = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
        differ = ascii(", ".join(names) or "its form")[1:-1][:200]
        raise DataError(f"{folder}: prepared by another version or by somebody else: its "
                        f"features.json is not that of our records, which differ in {differ}; "
                        f"prepare it again")
    if info.get("fileFormat") != "array_record":
        raise DataError(f"{folder}: {COMPLETE} tells format {ascii(info.get('fileFormat'))}, "
                        f"wanted array_record")
    splits = info.get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, dict) and isinstance(
            split.get("shardLengths", []), list) for split in splits):
        raise DataError(f"{folder}: {COMPLETE} tells no splits")
    if (shards := sum(len(split.get("shardLengths", [])) for split in splits)) > MOST_SHARDS:
        raise DataError(f"{folder}: {COMPLETE} tells of {shards} shards, limit {MOST_SHARDS}")


@functools.cache
def _own_features() -> dict:
    """What features.json holds of our records, as TFDS writes it."""
    with tempfile.TemporaryDirectory() as scratch:
        record.features().save_config(scratch)
        return strict_json.read(epath.Path(scratch) / "features.json")


def _check_numbers(split: tfds.core.SplitInfo) -> None:
    """Raise DataError for a shard of this machine that cannot hold as many records as told.

    One that is cut short costs its records, each by name, when they are read.
    """
    for path, number in zip(split.filepaths, split.shard_lengths, strict=True):
        if not is_uri(path) and number > (size := epath.Path(path).stat().length):
            raise DataError(f"{path}: {size} bytes, {COMPLETE} tells of {number} records")


def open_split(data_dir: epath.PathLike, split: str) -> "Records":
    """Open a split for random access.

    Args:
        data_dir: folder of a prepared data set (`.../synthscars/photos/2.0.0`), or a folder above
            it that holds only this one.
        split: name, or a TFDS slice of it such as 'train[:10%]'.

    Returns:
        A sequence of records.

    Raises:
        DataError: no data set there, more than one, or it has no such split.
    """
    builder = open_folder(find_version(data_dir))
    name = re.match(r"\w*", split).group()
    for part in re.findall(r"\w+", split):
        files = builder.info.splits[part].filepaths if part in builder.info.splits else []
        if missing := [file for file in files if not epath.Path(file).exists()]:
            raise DataError(f"{missing[0]}: not there; {len(missing)} of {len(files)} files of "
                            f"split {part} are missing")
        if files:
            _check_numbers(builder.info.splits[part])
    if name not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise DataError(f"{builder.data_path}: no split {split!r}; available: {known}")
    try:
        source = builder.as_data_source(split=split)
        number = len(source)
    except (ValueError, AssertionError) as error:
        if "0 length" in str(error):
            raise DataError(f"{builder.data_path}: split {split!r} holds no records") from error
        raise DataError(f"{builder.data_path}: split {split!r}: {error}") from error
    if not number:
        raise DataError(f"{builder.data_path}: split {split!r} holds no records")
    return Records(source)


class Records(Sequence):
    """Records of a split by their number. Picklable, so data workers can hold one."""

    def __init__(self, source: Sequence):
        """`source`: of TFDS."""
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Raises RecordError, whatever TFDS raises, for a record of a damaged file."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        try:
            return Record.from_features(self._source[index % len(self)])
        except Exception as error:  # nearly anything, for a file that is cut or changed
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RecordError("unreadable record", f"{index}: {reason}") from error

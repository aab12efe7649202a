"""Prepared data sets, opened for reading; neither TensorFlow nor the source is needed."""

import re
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from input_pipeline import strict_json
from input_pipeline.errors import first_line
from input_pipeline.paths import is_link, parse
from input_pipeline.records import record
from input_pipeline.records.record import DataError, Record, RecordError

COMPLETE = "dataset_info.json"  # by which a whole data set is known
# Keys of features.json, in its spellings of all versions, whose values TFDS imports.
NAMING = ("type", "pythonClassName", "python_class_name", "proto_cls", "protoCls")
LARGEST = 16 << 20  # bytes of a file that describes one; a shard takes a dozen


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
    it is asked only where those are the ones of our own records. Links are not followed.

    Raises DataError for a folder that is damaged, whose records are not ours or lie elsewhere.
    """
    described = strict_json.read(folder / "features.json", error=DataError, largest=LARGEST)
    strict_json.read(folder / COMPLETE, error=DataError, largest=LARGEST)
    own = record.features()
    if strange := sorted(_classes(described) - _classes(own.to_json())):
        raise DataError(f"{folder}: features.json names {ascii(strange[0])}, which no record of "
                        f"ours has; it is not imported")
    try:
        builder = tfds.builder_from_directory(str(folder))
        changed = {*builder.info.features} ^ {*own}
        files = {name: [epath.Path(file) for file in split.filepaths]
                 for name, split in builder.info.splits.items()}
    except Exception as error:  # TFDS raises nearly anything on damaged files
        raise DataError(f"{folder}: not a readable data set: {first_line(error)}") from error
    if changed:
        raise DataError(f"{folder}: prepared by another version, whose records differ "
                        f"in {', '.join(sorted(changed))}; prepare it again")
    for name, paths in files.items():
        if not re.fullmatch(r"\w+", name):
            raise DataError(f"{folder}: a split is called {ascii(name)}")
        for path in paths:
            if path.parent != folder or is_link(path):
                raise DataError(f"{folder}: split {name}: {ascii(str(path))} lies elsewhere; only "
                                f"files in the folder itself are read")
    return builder


def _classes(described: Any) -> set[str]:
    """What TFDS would import for a description of features, however deep it is."""
    names, left = set(), [described]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            left += part.values()
            names |= {value for key, value in part.items() if key in NAMING
                      and isinstance(value, str)}
    return names


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

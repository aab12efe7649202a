"""Prepared data sets, opened for reading; neither TensorFlow nor the source is needed."""

import re
from collections.abc import Sequence

import tensorflow_datasets as tfds
from etils import epath

from input_pipeline.paths import parse
from input_pipeline.records import record
from input_pipeline.records.record import DataError, Record, RecordError


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
    if (root / "dataset_info.json").exists():
        return [root]
    versions = sorted(
        path.parent
        for depth in ("*", "*/*", "*/*/*", "*/*/*/*")
        for path in root.glob(f"{depth}/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)  # unfinished ones have a longer name
    )
    if not versions:
        raise DataError(f"{root}: no prepared data set here")
    return versions


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
    builder = tfds.builder_from_directory(str(find_version(data_dir)))
    if changed := {*builder.info.features} ^ {*record.features()}:
        raise DataError(f"{builder.data_path}: prepared by another version, whose records differ "
                        f"in {', '.join(sorted(changed))}; prepare it again")
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
            return Record.from_features(self._source[index])
        except Exception as error:  # nearly anything, for a file that is cut or changed
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RecordError("unreadable record", f"{index}: {reason}") from error

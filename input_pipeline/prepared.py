"""Prepared data sets, opened for reading; neither TensorFlow nor the source is needed."""

import re

import tensorflow_datasets as tfds
from etils import epath

from input_pipeline import record
from input_pipeline.record import DataError


def find_version(data_dir: epath.PathLike) -> epath.Path:
    """The one complete data set folder at or below data_dir. Raises DataError."""
    root = epath.Path(data_dir)
    if (root / "dataset_info.json").exists():
        return root
    found = sorted(
        path.parent
        for depth in ("*", "*/*", "*/*/*")
        for path in root.glob(f"{depth}/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)  # unfinished ones have a longer name
    )
    if not found:
        raise DataError(f"{root}: no prepared data set here")
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise DataError(f"{root}: several data sets here, name one of: {names}")
    return found[0]


def open_split(data_dir: epath.PathLike, split: str):
    """Open a split for random access.

    Args:
        data_dir: folder of a prepared data set (`.../synthscars/photos/2.0.0`), or a folder above
            it that holds only this one.
        split: name, or a TFDS slice of it such as 'train[:10%]'.

    Returns:
        A sequence of records (`record`). Texts come back as bytes in UTF-8, `image` as the encoded
        file, `regions` as a dict of parallel arrays.

    Raises:
        DataError: no data set there, more than one, or it has no such split.
    """
    builder = tfds.builder_from_directory(str(find_version(data_dir)))
    if changed := {*builder.info.features} ^ {*record.features()}:
        raise DataError(f"{builder.data_path}: prepared by another version, whose records differ "
                        f"in {', '.join(sorted(changed))}; prepare it again")
    name = re.match(r"\w*", split).group()
    if name not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise DataError(f"{builder.data_path}: no split {split!r}; available: {known}")
    try:
        source = builder.as_data_source(split=split)
    except (ValueError, AssertionError) as error:
        raise DataError(f"{builder.data_path}: split {split!r}: {error}") from error
    if not len(source):
        raise DataError(f"{builder.data_path}: split {split!r} holds no records")
    return source

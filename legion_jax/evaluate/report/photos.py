"""Where the pictures of a page come from: encoded photos, or prepared data."""

import logging
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from input_pipeline.photos import images
from input_pipeline.records import manifest, prepared
from input_pipeline.records.record import Record, RecordError
from legion_jax.display import gallery

LOG = logging.getLogger("legion_jax")
# id -> the encoded file, as a record's `image`.
Photos = Mapping[str, bytes] | Callable[[str], bytes | None]


def picture_of(source: Photos, row: Mapping) -> str:
    """The picture of a row's photo in base64, or "" where no readable one is found.

    Raises UserError for a photo of another size than the row tells.
    """
    content = source(row["id"]) if callable(source) else source.get(row["id"])
    if content is None:
        return ""
    try:
        return gallery.picture(content, row["id"], row["size"])
    except images.ImageError as error:
        LOG.warning("%s", error)
        return ""


class RecordPhotos:
    """The photos of prepared splits by id; records are read in order, and each as rarely as can be.

    Asked for the ids in the order of the records, it reads every record once.
    """

    def __init__(self, *splits: Sequence[Record]):
        """`splits`: as `input_pipeline.records.prepared.open_split` gives them."""
        self._splits = splits
        self._places: dict[str, tuple[int, int]] = {}
        self._unread = ((s, k) for s, split in enumerate(splits) for k in range(len(split)))

    def __call__(self, name: str) -> bytes | None:
        """The encoded photo, or None where no record has that id or its file is damaged."""
        if name in self._places:
            split, number = self._places[name]
            return self._splits[split][number].image
        for split, number in self._unread:
            try:
                record = self._splits[split][number]
            except RecordError:
                continue
            self._places[record.id] = split, number
            if record.id == name:
                return record.image
        return None


def of_data(data_dir: epath.PathLike, splits: Sequence[str]) -> RecordPhotos:
    """The photos of a prepared data set: of `splits`, each one, several joined by +, or "all".

    Raises DataError where there is no such data set or split.
    """
    folder = prepared.find_version(data_dir)
    names = []
    for split in splits:
        names += manifest.read_summary(folder)["splits"] if split == "all" else split.split("+")
    return RecordPhotos(*(prepared.open_split(folder, name) for name in dict.fromkeys(names)))

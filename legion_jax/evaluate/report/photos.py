"""Where the pictures of a page come from: encoded photos, prepared data, or another report."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from input_pipeline import strict_json
from input_pipeline.errors import UserError
from input_pipeline.photos import images
from input_pipeline.records import manifest, prepared
from input_pipeline.records.record import Record, RecordError
from legion_jax.display import gallery

PICTURE = re.compile(
    rb'<script type="text/plain" id="jpeg-(\d{1,9})">([A-Za-z0-9+/]+={0,2})</script>\s*$')
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


class ReportPictures:
    """The pictures of a report.html, as they are there."""

    def __init__(self, path: epath.Path):
        """`path`: a page of `write_report`, or of anybody: what is no base64 is no picture."""
        self._codes, names = {}, {}
        with path.open("rb") as file:
            for line in file:
                if line.startswith(b'{"n":'):
                    item = strict_json.parse(line.rstrip(b",\n"), path, error=UserError,
                                             not_finite=float)
                    if type(item.get("n")) is int and isinstance(item.get("id"), str):
                        names[item["n"]] = item["id"]
                elif (script := PICTURE.match(line)) and (name := names.get(int(script[1]))):
                    self._codes[name] = script[2]

    def __call__(self, row: Mapping) -> str:
        """The picture of a row's photo in base64, or "" where the report has none."""
        return self._codes.get(row["id"], b"").decode("ascii")

"""A tiny tree in SynthScars' layout with every defect the published files have, and more."""

import io
import json

import pytest
from PIL import Image
from prepared_sources import prepare

SQUARE = [[2, 2, 12, 2, 12, 9, 2, 9]]


def encode_image(shade, *, form="PNG", orientation=None):
    """A 24x16 image; orientation 6 makes it 16 wide and 24 high for a viewer."""
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (shade, 80, 200)).save(buffer, form, exif=exif)
    return buffer.getvalue()


def make_ref(sentence, *, polygons=SQUARE, explanation="looks wrong"):
    return {
        "sentence": sentence,
        "explanation": explanation,
        "bbox": None,
        "segmentation": polygons,
    }


def make_record(file, caption, *refs):
    return {"img_file_name": file, "caption": caption, "refs": list(refs)}


def write_split(root, split, items, *, folder="annotations", images=None):
    home = root / split / folder
    home.mkdir(parents=True, exist_ok=True)
    (home / f"{split}.json").write_text(json.dumps(items))
    (root / split / "images").mkdir(exist_ok=True)
    for name, content in (images or {}).items():
        (root / split / "images" / name).write_bytes(content)
    return root


IMAGES = {
    "a.png": encode_image(10),
    "a.jpg": encode_image(20, form="JPEG"),  # same stem as a.png, another image
    "turned.jpg": encode_image(30, form="JPEG", orientation=6),
    "torn.png": encode_image(40)[:60],
    "notes.png": b"not an image",
}
GOOD = [
    {
        "0": make_record(
            "a.png", ' "The hand and the left foot. " ', make_ref("left foot"), make_ref("hand")
        )
    },
    {"1": make_record("a.jpg", '"A sign."', make_ref("sign", explanation=""))},
    {"2": make_record("turned.jpg", "A tall wall.", make_ref("tall wall"))},
    {"3": make_record("a.png", "The same image, another eye.", make_ref("another eye"))},
]
DEFECTS = [
    {
        "4": make_record(
            "a.png",
            "The old sign, a door.",
            make_ref("old sign"),
            make_ref("sign"),  # only inside 'old sign'
            make_ref("a window"),
            make_ref("a door", polygons=[[1, 1, 5, 5]]),
            make_ref("door", polygons=[[100, 100, 120, 100, 120, 120]]),
            {"explanation": "no sentence"},
            make_ref("door", polygons=None),
        )
    },
    {"5": make_record("a.png", "Nothing.")},
    {"6": make_record("a.png", "A cat.", make_ref("dog"))},
    {"7": make_record("gone.png", "A cat.", make_ref("cat"))},
    {"8": make_record("torn.png", "A cat.", make_ref("cat"))},
    {"9": make_record("notes.png", "A cat.", make_ref("cat"))},
    {"10": make_record("../../secret.png", "A cat.", make_ref("cat"))},
    {"11": make_record("/etc/secret.png", "A cat.", make_ref("cat"))},
    {"12": make_record("..\\secret.png", "A cat.", make_ref("cat"))},
    {"13": {"img_file_name": "a.png", "caption": "A cat."}},
    {"14": {"img_file_name": "a.png", "caption": None, "refs": []}},
    {"15": "text", "16": "text"},
    "text",
    {"0": make_record("a.png", "Again a cat.", make_ref("cat"))},
    {"17": make_record("a.png", "Half \ud800 a letter.", make_ref("letter"))},
]
SKIPPED = {
    "duplicate id": 1,
    "file missing": 1,
    "name outside the source": 3,
    "malformed record": 5,
    "no usable ref": 2,
    "unreadable image": 2,
}
DROPPED = {
    "malformed ref": 2,
    "phrase not in caption": 2,
    "phrase overlaps another": 1,
    "unusable region": 2,
}


def make_fake(root):
    """All of them in a split for training, beside a photo that no name may lead to."""
    (root / "secret.png").write_bytes(encode_image(99))
    return write_split(root, "train", GOOD + DEFECTS, folder="annoations", images=IMAGES)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_fake(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def published(source, tmp_path_factory):
    return prepare("synthscars/published", source, tmp_path_factory.mktemp("data"))

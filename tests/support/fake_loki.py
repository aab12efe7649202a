"""A tiny tree in LOKI's layout: odd images, boxes and JSON in UTF-16, defects of every kind."""

import io
import json

import numpy as np
from PIL import Image


def encode_image(shade, *, mode="RGB", form="PNG", orientation=None, size=(24, 16)):
    """A 24x16 image of any mode; orientation 6 makes it 16 wide and 24 high for a viewer."""
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    if mode == "I;16":
        image = Image.fromarray(np.full(size[::-1], shade * 257, np.uint16))
    else:
        image = Image.new("RGB", size, (shade, 80, 200)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, exif=exif)
    return buffer.getvalue()


IMAGES = {
    "a.png": encode_image(10),
    "turned.jpg": encode_image(20, form="JPEG", orientation=6),
    "grey.jpg": encode_image(30, form="JPEG", mode="L"),
    "palette.png": encode_image(40, mode="P"),
    "cmyk.jpg": encode_image(50, form="JPEG", mode="CMYK"),
    "deep.png": encode_image(60, mode="I;16"),
    "été 照片.png": encode_image(70),
    "torn.png": encode_image(80)[:60],
}
HOME = "media_data/image"
QUESTION = "<image>\nWhat is wrong with this image?\n"


def region(desc, *box):
    return {"region": list(box), "desc": desc}


def open_ended(file, *regional, whole=("It looks synthetic.",), **fields):
    return {"id": f"open_{file}", "image_path": f"{HOME}/{file}", "question": QUESTION,
            "choices": [], "answer": "", "modality": "image-text", "metric": "open-ended",
            "question_type": "image_open_ended_animals",
            "problems": {"regional": list(regional), "global": [{"desc": d} for d in whole]},
            **fields}


def true_or_false(file, truth, asked, category="animals"):
    answer = "Yes" if truth == asked else "No"
    return {"image_path": f"{HOME}/{file}", "question": f"<image>\nIs it {asked}?\n",
            "answer": answer, "metric": "open-ended", "modality": "image-text", "choices": [],
            "question_type": f"image_tf_image_{truth}_ask_{asked}_{category}",
            "id": f"{category}_tf_{asked}_{file}"}


def multi_choice(number, first, second, wanted, answer, category="doc"):
    other = {"real": "fake", "fake": "real"}[wanted]
    return {"image_path": [f"{HOME}/{first}", f"{HOME}/{second}"], "modality": "image-text",
            "metric": "multi-choice", "question": "<image>\n<image>\nWhich one?",
            "choices": ["The first one.", "The second one."], "answer": answer,
            "question_type": f"image_mc_{wanted}_from_{other}_{category}",
            "id": f"image_{wanted}_from_{other}_{category}_mc_{number}"}


OPEN_ENDED = [
    open_ended("a.png", region(" Six legs. ", 2, 3, 10.5, 6), region("Melted tail.", 0, 0, 3, 3)),
    open_ended("turned.jpg", region("Too tall.", 1, 20, 15.0000001, 4), whole=()),
    open_ended("été 照片.png", region("Über ✗.", 1, 1, 4, 4), region("Nothing here.", 30, 2, 4, 4),
               region("No height.", 1, 1, 4, 0), region("A hair.", 1.1, 1.1, .1, .1),
               region("Text.", "1", 1, 4, 4), region(None, 1, 1, 4, 4),
               region("Wide.", 20, -3, 9, 9), region("Endless.", 1, 1, float("nan"), 4),
               region("Huge.", 1, 1, 10**400, 4)),
    open_ended("grey.jpg", question_type="open-ended"),
    open_ended("palette.png", region("Outside.", 99, 99, 4, 4)),
    open_ended("torn.png", region("Torn.", 1, 1, 4, 4)),
    open_ended("gone.png", region("Gone.", 1, 1, 4, 4)),
    open_ended("a.png", region("Again.", 1, 1, 4, 4)),
    open_ended("cmyk.jpg", problems=[]),
    open_ended("cmyk.jpg.2", problems={"regional": "x"}),
    open_ended("x.png", image_path=None),
    open_ended("secret.png", region("Out.", 1, 1, 4, 4), image_path="../../secret.png"),
    "text",
]
OPEN_SKIPPED = {"duplicate id": 1, "file missing": 1, "malformed record": 4,
                "name outside the source": 1, "no usable region": 1, "unreadable image": 1}
OPEN_DROPPED = {"malformed region": 2, "unusable region": 6}
OPEN_REPAIRED = {"box clipped to the image": 2}

TRUE_OR_FALSE = [
    true_or_false("a.png", "real", "fake", "doc"), true_or_false("a.png", "real", "real", "doc"),
    true_or_false("turned.jpg", "fake", "fake", "sence"),
    true_or_false("turned.jpg", "fake", "real", "sence"),
    true_or_false("deep.png", "fake", "real", "person"),
    true_or_false("grey.jpg", "real", "real"), true_or_false("grey.jpg", "fake", "real"),
    true_or_false("gone.png", "real", "real"),
    true_or_false("palette.png", "maybe", "real"),
    {"id": "nothing"}, None,
]
TF_SKIPPED = {"contradictory truth": 1, "file missing": 1, "malformed record": 3}

MULTI_CHOICE = [
    multi_choice(0, "a.png", "cmyk.jpg", "real", "A"),
    multi_choice(0, "a.png", "cmyk.jpg", "fake", "B"),
    multi_choice(1, "deep.png", "a.png", "real", "B", "sence"),
    multi_choice(2, "grey.jpg", "turned.jpg", "real", "A"),
    multi_choice(2, "grey.jpg", "turned.jpg", "fake", "A"),
    multi_choice(3, "gone.png", "a.png", "fake", "A"),
    multi_choice(4, "a.png", "cmyk.jpg", "real", "C"),
    {"id": "image_1", "image_path": ["one.png"]},
]
MC_SKIPPED = {"contradictory truth": 4, "file missing": 1, "malformed record": 2}


def make_fake(root, *, encoding="utf-16", annotations="image", home=HOME):
    """The published layout; "utf-16" has a byte order mark, "utf-16-le" has none."""
    for name, content in IMAGES.items():
        path = root / home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / annotations).mkdir(parents=True, exist_ok=True)
    for name, entries, code in (("open_ended_vqa", OPEN_ENDED, encoding),
                                ("true_or_false", TRUE_OR_FALSE, "utf-8"),
                                ("multi_choice", MULTI_CHOICE, "utf-8")):
        text = json.dumps(entries, ensure_ascii=False, indent=4)
        (root / annotations / f"{name}.json").write_bytes(text.encode(code))
    return root

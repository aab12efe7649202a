"""A tiny tree in PAL4VST's layout: labels of 0 and 1, some missing, torn or of another size."""

import io

import numpy as np
from fake_loki import encode_image
from PIL import Image

TRAIN = {"ffhq_seed0524": encode_image(10, form="JPEG"),
         "grey": encode_image(20, form="JPEG", mode="L"),
         "cmyk": encode_image(30, form="JPEG", mode="CMYK"),
         "turned": encode_image(40, form="JPEG", orientation=6),
         "été 照片": encode_image(50, form="JPEG"),
         "turned_with_its_label": encode_image(45, form="JPEG", orientation=6),
         "torn": encode_image(60, form="JPEG")[:200],
         "torn_label": encode_image(70, form="JPEG"),
         "unlabelled": encode_image(80, form="JPEG")}
SKIPPED = {"file missing": 2, "label of another size": 1, "unreadable image": 1,
           "unreadable label": 1}


def label(*boxes, size=(16, 24)):
    """A label with 1 in boxes x1, y1, x2, y2, as published."""
    mask = np.zeros(size, np.uint8)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = 1
    return mask


def encode_label(mask, mode="L"):
    buffer = io.BytesIO()
    image = Image.fromarray(mask)
    if mode == "P":
        image = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
        image.putpalette([0, 0, 0, 0, 0, 0])  # both black
    image.save(buffer, "PNG")
    return buffer.getvalue()


LABELS = {"ffhq_seed0524": encode_label(label((2, 3, 9, 8))),
          "grey": encode_label(label()),
          "cmyk": encode_label(label((0, 0, 24, 16)), mode="P"),
          "turned": encode_label(label((2, 3, 9, 8))),  # of the image before it is turned
          "été 照片": encode_label(label((0, 0, 1, 1))),
          "turned_with_its_label": encode_label(label((2, 3, 9, 8), size=(24, 16))),
          "torn": encode_label(label((2, 3, 9, 8))),
          "torn_label": b"\x89PNG",
          "no_image": encode_label(label((2, 3, 9, 8)))}


def make_fake(root):
    """train with every defect, val with one image, test with two, one of them clean."""
    val = {"one": encode_image(110, form="JPEG")}
    test = {"clean": encode_image(120, form="JPEG"), "bad": encode_image(130, form="JPEG")}
    marks = {"one": encode_label(label((1, 1, 2, 2))), "clean": encode_label(label()),
             "bad": encode_label(label((1, 1, 2, 2), (20, 1, 24, 16)))}
    for split, images, labels in (("train", TRAIN, LABELS), ("val", val, marks),
                                  ("test", test, marks)):
        for kind, files, suffix in (("images", images, "jpg"), ("labels", labels, "png")):
            home = root / kind / split
            home.mkdir(parents=True)
            for name, content in files.items():
                if kind == "images" or split == "train" or name in images:
                    (home / f"{name}.{suffix}").write_bytes(content)
    (root / "images" / "train" / "._grey.jpg").write_bytes(b"a Mac's side file")
    (root / "images" / "train" / "Thumbs.db").write_bytes(b"")
    return root

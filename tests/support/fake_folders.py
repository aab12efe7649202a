"""Tiny trees in the layouts of ProGAN's training set, ForenSynths and UniversalFakeDetect.

Also the images and the archives that the trees of other data sets are made of.
"""

import io
import zipfile

import numpy as np
from PIL import Image


def picture(shade, *, mode="RGB", form="PNG", orientation=None, size=(24, 16)):
    """An encoded image; `shade` makes its bytes differ from others'."""
    ramp = np.add.outer(np.arange(size[1]), np.arange(size[0])).astype(np.uint8) + np.uint8(shade)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.stack([ramp, ramp // 2, 255 - ramp], -1)).convert(mode)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, form, exif=exif)
    return buffer.getvalue()


# Every form of image the field's files have, as (name, content); all of them are readable.
FORMS = [
    ("plain.png", picture(1)),
    ("turned.jpg", picture(2, form="JPEG", orientation=6)),
    ("grey.png", picture(3, mode="L")),
    ("palette.png", picture(4, mode="P")),
    ("cmyk.jpg", picture(5, mode="CMYK", form="JPEG")),
    ("sixteen.png", picture(6, mode="I;16")),
    ("bild_ä_图.PNG", picture(7)),
    ("two.dots.jpeg", picture(8, form="JPEG")),
]
# What cannot be read or is no image, as {name: content}.
BROKEN = {
    "torn.png": picture(9)[:70],
    "empty.jpg": b"",
    "notes.png": b"not an image",
    ".DS_Store": b"\0\0\0\1Bud1",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
}


def write_tree(root, files):
    """Writes {path: content} below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def zip_tree(path, files, *, start="", hostile=()):
    """Writes {path: content} into a zip, hostile entries (name, content, is a link) behind."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(start + name, content)
        for name, content, is_link in hostile:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o120777 if is_link else 0o100644) << 16
            archive.writestr(entry, content)
    return path


def pair(home, *, real=2, fake=2, first=0):
    """{path: content} of a `0_real` and a `1_fake` folder; no two images are equal."""
    files = {f"{home}/0_real/{i:05d}.png": picture(first + i) for i in range(real)}
    shades = range(first + real, first + real + fake)
    return files | {f"{home}/1_fake/{i:05d}.png": picture(i) for i in shades}


def progan_files():
    """ProGAN's training and validation sets, with every form and defect in one class."""
    files = {f"progan_train/airplane/0_real/{name}": content for name, content in FORMS}
    files |= {f"progan_train/airplane/1_fake/{name}": c for name, c in BROKEN.items()}
    files |= {"progan_train/airplane/1_fake/again.png": FORMS[0][1]}  # equals a real one
    files |= pair("progan_train/train", first=20)  # a class, not a split
    return files | pair("progan_val/airplane", first=40) | {
        "progan_train/readme.txt": b"no label above",
        "__MACOSX/progan_train/airplane/0_real/._plain.png": b"fork"}


def forensynths_files():
    """Three of the test sets, one of them with class folders."""
    return {**pair("test/progan/car"), **pair("test/progan/train", first=10),
            **pair("test/seeingdark", first=20), **pair("test/deepfake", fake=3, first=30),
            **pair("train/progan/car", first=50)}


def ufd_files():
    """Tests of UniversalFakeDetect with the shared real folders of the diffusion models."""
    guided = pair("diffusion_datasets/guided", real=0, fake=3, first=60)
    shared = {f"diffusion_datasets/{home}/0_real/{i}.jpg": picture(shade + i, form="JPEG")
              for home, shade in (("imagenet", 70), ("laion", 80)) for i in range(3)}
    fakes = pair("diffusion_datasets/ldm_200", real=0, fake=2, first=90) | pair(
        "diffusion_datasets/dalle", real=0, fake=2, first=100)
    return forensynths_files() | guided | shared | fakes


MAKERS = {"progan": progan_files, "forensynths": forensynths_files, "ufd": ufd_files}


def make_fake(root, name):
    """Writes the tree of a data set; returns its {path: content}."""
    files = MAKERS[name]()
    write_tree(root, files)
    return files

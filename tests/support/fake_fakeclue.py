"""A tiny FakeClue: annotations and images as published, in zips or unpacked, defects included."""

import json
import zipfile

from fake_folders import FORMS, picture, write_tree, zip_tree

QUESTION = "Does the image looks real/fake?"
FRAMES = "ff++/fake/{}/c23/frames/{}/{}.png"


def make_record(image, *, label=0, cate="object", size=(24, 16), turns=None, **changes):
    """A record; a change to None removes the field."""
    word = "real" if label == 1 else "fake"
    record = {
        "image": image, "label": label, "cate": cate, "width": size[0], "height": size[1],
        "conversations": turns if turns is not None else [
            {"from": "human", "value": f"<image>{QUESTION}"},
            {"from": "gpt", "value": f" This is a {word} image. It shows {image}.\n"}]}
    return {k: v for k, v in (record | changes).items() if v is not None}


def _good(split):
    """[(record, (label, category, generator, group or '' for the image's hash))] of a split."""
    shared = {"train": "071_054", "test": "054_071"}[split]
    own = {"train": "100_200", "test": "300_400"}[split]
    # `.` and a doubled prefix are spellings of the same file.
    return [
        (make_record(FRAMES.format("Deepfakes", shared, 160), cate="deepfake"),
         (1, "deepfake", "Deepfakes", "ff++/054")),
        (make_record(f"{split}/" + FRAMES.format("FaceSwap", own, 7), cate="deepfake"),
         (1, "deepfake", "FaceSwap", f"ff++/{own[:3]}")),
        (make_record("ff++/real/youtube/c23/frames/071/057.png", label=1, cate="deepfake"),
         (0, "deepfake", "", "ff++/054")),
        (make_record(f"chameleon/fake/{split}.jpg", cate="human"), (1, "human", "chameleon", "")),
        (make_record(f"./genimage/fake/VQDM_1000_200_08_872_vqdm_{split}.png", cate="animal"),
         (1, "animal", "vqdm", "")),
        (make_record("genimage/real/n01440764.jpg", label=1, cate="animal"),
         (0, "animal", "", "")),
        (make_record("doc/fake/a.png", cate="document"), (1, "document", "", "")),
    ] + [(make_record(f"satellite/real/{split}_{name}", label=1, cate="satellite",
                      size=(16, 24) if "turned" in name else (24, 16)),
          (0, "satellite", "", "")) for name, _ in FORMS]


GONE = "chameleon/fake/gone.jpg"
DEFECTS = [
    (make_record("doc/fake/defect.png", turns=[{"from": "human", "value": "<image>Real?"}]),
     "no gpt turn"),
    (make_record("doc/fake/defect1.png", turns="none"), "no gpt turn"),
    (make_record(GONE), "file missing"),
    (make_record("doc/fake/link.png"), "file missing"),  # a link in the zips
    (make_record("doc/fake/" + "x" * 300 + ".png"), "file missing"),
    (make_record("../../secret.png"), "name outside the source"),
    (make_record("/etc/passwd"), "name outside the source"),
    (make_record("doc/fake/torn.png"), "unreadable image"),
    (make_record("doc/fake/notes.png"), "unreadable image"),
    (make_record("doc/fake/defect2.png", label=2), "unknown label"),
    (make_record("doc/fake/defect3.png", label="fake"), "unknown label"),
    (make_record("doc/fake/defect4.png", label=True), "unknown label"),
    (make_record("doc/fake/defect5.png", conversations=None), "no gpt turn"),
    (make_record("doc/fake/defect6.png", cate=7), "malformed record"),
    (make_record("doc/fake/half \ud800.png"), "malformed record"),
    (make_record(None), "malformed record"),
    ("text", "malformed record"),
    (make_record("doc/fake/a.png"), "duplicate id"),
    (make_record("test/doc/fake/a.png"), "duplicate id"),
]
REPAIRED = [make_record("doc/fake/wide.png", cate="document", size=(240, 160)),
            make_record("doc/fake/nosize.png", cate="document", width=None, height=None)]


def _files(split, records):
    """{name without the split: content} of the images of good records."""
    files = {}
    for number, record in enumerate(records):
        name = record["image"].removeprefix("./").removeprefix(f"{split}/")
        form = "JPEG" if name.endswith("jpg") else "PNG"
        files[name] = picture(number + (100 if split == "test" else 0), form=form)
    for name, content in FORMS:
        files[f"satellite/real/{split}_{name}"] = content if split == "train" else (
            content + b"\0")  # other bytes than in train
    files["doc/fake/a.png"] = picture(99)  # the very same in both splits
    return files


def make_fake(root, *, packed=True, nested=0, defects=True, splits=("train", "test")):
    """Writes the data set below `root`; returns {split: ([(record, expected)], {name: content})}.

    Args:
        packed: zips instead of folders.
        nested: how often the split is in front of the names in the zips or below the folders.
        defects: whether test has the defects.
    """
    made = {}
    for split in splits:
        good, start = _good(split), f"{split}/" * nested
        records = [record for record, _ in good]
        files = _files(split, records)
        hostile = []
        if defects and split == "test":
            records = records + REPAIRED + [record for record, _ in DEFECTS]
            files |= {f"doc/fake/defect{n}.png": picture(50) for n in ("", *range(1, 7))}
            files |= {"doc/fake/wide.png": picture(51), "doc/fake/nosize.png": picture(52),
                      "doc/fake/torn.png": picture(53)[:70], "doc/fake/notes.png": b"text"}
            hostile = [("../../secret.png", picture(54), False),
                       (f"{start}doc/fake/link.png", b"/etc/passwd", True)]
        write_tree(root, {f"data_json/{split}.json": json.dumps(records).encode()})
        if packed:
            zip_tree(root / f"{split}.zip", files, start=start, hostile=hostile)
        else:
            write_tree(root / split, {start + name: content for name, content in files.items()})
        made[split] = good, files
    return made


def spoil(path, name):
    """Makes the packed bytes of a zip's entry begin with a block of no legal kind."""
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo(name).header_offset + 30 + len(name)
    content = bytearray(path.read_bytes())
    content[place] = 0xFF
    path.write_bytes(content)

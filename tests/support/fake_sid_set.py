"""A tiny SID-Set in both of its layouts, with the same images and masks and every defect."""

import io
import json

import numpy as np
from fake_folders import BROKEN, FORMS, picture, write_tree
from PIL import Image

KINDS = ("real", "full_synthetic", "tampered")


def mask_array(*, size=(24, 16), part=2):
    """uint8[H, W] of 0 and 1: the left 1 / part of the image."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[:, :size[0] // part] = 1
    return mask


def encode_mask(mask, *, mode="L"):
    """A mask file: grey 0 and 255, or a palette in which number 0 is white, which is masked."""
    buffer = io.BytesIO()
    if mode == "P":
        image = Image.fromarray(mask).convert("P")
        image.putdata((1 - mask).ravel().tolist())
        image.putpalette([255, 255, 255, 0, 0, 0])
    else:
        image = Image.fromarray(mask * 255).convert(mode)
    image.save(buffer, "PNG")
    return buffer.getvalue()


# {name of a tampered image: (mask file or None, what is read, reason, is it dropped)}
HALF = mask_array()
MASKS = {
    "ok.png": (encode_mask(HALF), HALF, None, False),
    "palette.png": (encode_mask(HALF, mode="P"), HALF, None, False),
    "colour.png": (encode_mask(HALF, mode="RGB"), HALF, None, False),
    "small.png": (encode_mask(mask_array(size=(12, 8))), HALF, "mask resized", False),
    "large.png": (encode_mask(mask_array(size=(48, 32))), HALF, "mask resized", False),
    "turned.png": (encode_mask(mask_array(size=(16, 24))), None, "unusable mask", True),
    "blank.png": (encode_mask(HALF * 0), None, "unusable mask", True),
    "torn.png": (encode_mask(HALF)[:50], None, "unusable mask", True),
    "none.png": (None, None, "mask missing", True),
}
TEXTS = {"real": {"plain.png": "A plain photo."}, "full_synthetic": {"syn_0": " By a machine. "},
         "tampered": {"ok.png": "Its left half.", "gone.png": "Nobody has it."}}


def _images(split):
    """{kind: {name: content}} of a split."""
    shade = 100 if split == "train" else 150
    kinds = {"real": dict(FORMS), "full_synthetic": {
        f"syn_{i}.png": picture(shade - 30 + i) for i in range(3)}}
    kinds["tampered"] = {name: picture(shade + i) for i, name in enumerate(MASKS)}
    if split != "train":
        kinds["real"] = {"real_0.png": picture(20)}
    return kinds


def make_folders(root, *, defects=True):
    """Writes the layout of folders; returns {split: {kind: {name: content}}} of what is good."""
    made = {}
    for split in ("train", "validation"):
        made[split] = kinds = _images(split)
        files = {f"{split}/{kind}/{name}": content for kind in KINDS
                 for name, content in kinds[kind].items()}
        files |= {f"{split}/masks/{name[:-4]}_mask.png": mask
                  for name, (mask, *_) in MASKS.items() if mask}
        if defects and split == "train":
            files |= {f"train/real/bad_{n}" if n[0] != "." else f"train/real/{n}": content
                      for n, content in BROKEN.items()}
            files |= {f"text_label_images/train/description/{kind}_GT.json":
                      json.dumps(TEXTS[kind]).encode() for kind in KINDS}
        write_tree(root, files)
    return made


def make_parquet(root, *, row_group_size=4, descriptions=False):
    """Writes the layout of parquet files; returns {split: {id: (kind, content)}} of what is good.

    Three defects are in train: a label of 3, a row without image, an id that was there before.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = {}
    for split in ("train", "validation"):
        rows, good = [], {}
        for label, kind in enumerate(KINDS):
            for name, content in _images(split)[kind].items():
                mask = MASKS[name][0] if kind == "tampered" else None
                key = f"{kind}_{name[:-4]}"
                good[key] = kind, content
                rows.append(_row(key, content, name, label, mask))
        if split == "train":
            rows[1]["width"] = 999
            rows += [_row("x", picture(1), "x.png", 3, None), _row("y", None, "y.png", 0, None),
                     _row("tampered_ok", picture(2), "ok.png", 0, None)]
        if descriptions:
            for row in rows:
                row["description"] = f"About {row['img_id']}."
        made[split] = good
        half = len(rows) // 2
        for part, piece in enumerate((rows[:half], rows[half:])):
            path = root / "data" / f"{split}-0000{part}-of-00002.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(piece, _schema(pa, descriptions)), path,
                           row_group_size=row_group_size)
    return made


def _row(key, content, name, label, mask):
    turned = name == "turned.jpg"
    return {"img_id": key, "image": content and {"bytes": content, "path": name},
            "mask": mask and {"bytes": mask, "path": None}, "width": 16 if turned else 24,
            "height": 24 if turned else 16, "label": label}


def _schema(pa, descriptions):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("img_id", pa.string()), ("image", image), ("mask", image), ("width", pa.int64()),
              ("height", pa.int64()), ("label", pa.int64())]
    return pa.schema(fields + [("description", pa.string())] * descriptions)

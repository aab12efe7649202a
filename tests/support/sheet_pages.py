"""A data set with every kind of record, sources of all others, and their pages."""

import json
import pathlib

import fake_ddvqa
import fake_dmimage
import fake_fakeclue
import fake_folders
import fake_loki
import fake_pal4vst
import fake_richhf
import fake_sid_set
import fake_synthscars
import html_page
from fake_folders import picture, write_tree
from fake_sid_set import encode_mask, mask_array

from input_pipeline.datasets import open_dataset

EVIL = "<script>alert('&')</script> \"onload=\"x"
LEFT, RIGHT = [[2, 2, 10, 2, 10, 12, 2, 12]], [[14, 2, 22, 2, 22, 12, 14, 12]]
KINDS = [  # every way a record can be, in one data set
    {"id": "two", "image": "a.png", "label": "tampered", "caption": "A sun and a moon.",
     "regions": [{"phrase": "moon", "polygons": RIGHT, "explanation": "cheese",
                  "artifact_type": "physics"}, {"phrase": "sun", "polygons": LEFT}]},
    {"id": "union", "image": "b.png", "label": "synthetic", "union_mask": "half.png"},
    {"id": "heat", "image": "c.png", "label": 1, "union_mask": "half.png", "heatmap": "heat.png",
     "scores": {"overall": 0.25, "artifact": 1}},
    {"id": "plain", "image": "d.png"},
    {"id": "clean", "image": "e.png", "label": "real", "regions": [], "question": "Real or fake?"},
    {"id": "mute", "image": "f.png", "label": 2, "regions": [{"box": [2, 2, 20, 14]}]},
    {"id": "evil", "image": "g.png", "label": 2, "split": "test", "group_id": EVIL,
     "file_name": EVIL, "category": EVIL, "generator": EVIL, "question": EVIL, "dataset": EVIL,
     "caption": f"A {EVIL} here.", "regions": [
         {"phrase": EVIL, "explanation": EVIL, "artifact_type": EVIL, "polygons": LEFT}]},
    {"id": "gone", "image": "gone.png", "split": "test"}]
FILES = {"half.png": encode_mask(mask_array()), "heat.png": picture(9, mode="L"),
         **{f"{letter}.png": picture(shade) for shade, letter in enumerate("abcdefg")}}


def read_page(path: pathlib.Path) -> html_page.Page:
    """A page that was written."""
    return html_page.Page(path.read_text(encoding="utf-8"))


def make_source(kind, root):
    """A fake of each data set, as its own tests have it."""
    if kind in fake_folders.MAKERS:
        fake_folders.make_fake(root, kind)
    elif kind == "jsonl":
        lines = "".join(json.dumps(record) + "\n" for record in KINDS)
        write_tree(root, FILES | {"manifest.jsonl": lines.encode()})
    elif kind == "synthscars":
        fake_synthscars.write_split(root, "train", fake_synthscars.GOOD + fake_synthscars.DEFECTS,
                                    images=fake_synthscars.IMAGES)
    else:
        make = {"ddvqa": fake_ddvqa.make_fake, "dmimage": fake_dmimage.make_fake,
                "fakeclue": fake_fakeclue.make_fake, "loki": fake_loki.make_fake,
                "pal4vst": fake_pal4vst.make_fake, "richhf": fake_richhf.make_fake,
                "sid_set": fake_sid_set.make_folders}[kind]
        root.mkdir()
        make(root)
    return open_dataset("sid_set/folders" if kind == "sid_set" else kind, str(root))

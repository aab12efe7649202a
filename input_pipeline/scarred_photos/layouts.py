"""How scarred photos lie in a folder: as SynthScars, FakeClue or SID-Set publishes its images.

    synthscars  {split}/images/NAME, {split}/annotations/{split}.json with phrases and polygons
    fakeclue    {split}/{real,fake}/NAME, data_json/{split}.json with a verdict in words
    sid_set     {split}/{real,full_synthetic,tampered}/NAME, {split}/masks/STEM_mask.png,
                text_label_images/{split}/description/KIND_GT.json

All show the same samples, but that in SID-Set's one in five is repainted. Its real images are
published as JPEGs and the others as PNGs; here all are PNGs, so the file tells nothing.
"""

import dataclasses
import posixpath
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from input_pipeline.photos.regions import mask_to_png, polygons_to_mask, union_of
from input_pipeline.scarred_photos import repaint
from input_pipeline.scarred_photos.samples import Sample, ScarredPhotosError
from input_pipeline.scarred_photos.scars import Scar
from input_pipeline.text.dialogue import IMAGE_TOKEN, REAL_OR_FAKE

AGREES = "The light, the shapes and the textures agree."
NO_ARTIFACT = f"I have found no artifact. {AGREES}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to write samples down.

    Attributes:
        name: of it; marks: what generator.json says of it.
        repaints: as of `make_sample`.
        folder: (split, sample) -> where its image lies.
        write: (root, split, index, sample, name of its image) -> the sample's entry; writes what
            is a file of its own.
        annotations: (split, entries in order) -> {file: JSON content}.
    """

    name: str
    marks: Mapping[str, str]
    repaints: bool
    folder: Callable[[str, Sample], str]
    write: Callable[[epath.Path, str, int, Sample, str], dict]
    annotations: Callable[[str, Sequence[dict]], dict[str, list | dict]]


def layout_named(name: str) -> Layout:
    """The layout of that name. Raises ScarredPhotosError naming those there are."""
    if name not in LAYOUTS:
        raise ScarredPhotosError(f"layout: {', '.join(LAYOUTS)}, not {name!r}")
    return LAYOUTS[name]


def describe(scars: Sequence[Scar]) -> tuple[str, list[dict]]:
    """Writes the caption and the refs of an image in SynthScars' form."""
    if not scars:
        return NO_ARTIFACT, []
    refs = [
        {
            "sentence": scar.phrase,
            "explanation": scar.kind.explanation,
            "bbox": None,
            "segmentation": [scar.polygon],
        }
        for scar in scars
    ]
    items = " ".join(f"{ref['sentence']}:{ref['explanation']}" for ref in refs)
    noun = "artifact" if len(refs) == 1 else "artifacts"
    return f"I have found {len(refs)} {noun}. {items}", refs


def judge_in_words(scars: Sequence[Scar]) -> str:
    """The explanation of an image in FakeClue's form: the verdict, and what tells it."""
    if not scars:
        return f"This is a real image. {AGREES}"
    reasons = (f"There is {_article(scar.phrase)}{scar.phrase}. {scar.kind.explanation}"
               for scar in scars)
    return f"This is a fake image. {' '.join(reasons)}"


def describe_in_tags(scars: Sequence[Scar]) -> str:
    """The description of a tampered image in SID-Set's form."""
    places = " ".join(f"<{scar.place}> {scar.kind.name}" for scar in scars)
    wrong = " ".join(f"<{scar.kind.name}> {scar.kind.explanation}" for scar in scars)
    return f"Type: part tampered Areas:{places} Visual Inconsistencies:{wrong}"


def _article(phrase: str) -> str:
    """`a ` before what can be counted; light cannot."""
    return "" if "light" in phrase.split() else "a "


def _write_synthscars(root, split, index, sample, name):
    caption, refs = describe(sample.scars)
    return {str(index): {"img_file_name": name, "caption": caption, "refs": refs}}


def _write_fakeclue(root, split, index, sample, name):
    height, width = sample.image.shape[:2]
    return {"image": f"{split}/{_verdict(sample)}/{name}", "label": int(sample.real),
            "cate": sample.photo, "width": width, "height": height, "conversations": [
                {"from": "human", "value": f"{IMAGE_TOKEN}{REAL_OR_FAKE}"},
                {"from": "gpt", "value": judge_in_words(sample.scars)}]}


def _verdict(sample):
    return "real" if sample.real else "fake"


def _write_sid_set(root, split, index, sample, name):
    kind = _kind(sample)
    if kind == "tampered":
        height, width = sample.image.shape[:2]
        masks = [polygons_to_mask([scar.polygon], height, width) for scar in sample.scars]
        path = root / split / "masks" / f"{posixpath.splitext(name)[0]}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mask_to_png(union_of(masks, (height, width))))
    text = {"real": AGREES, "tampered": describe_in_tags(sample.scars),
            "full_synthetic": repaint.EXPLANATION}[kind]
    return {"kind": kind, "name": name, "text": text}


def _kind(sample):
    if sample.real:
        return "real"
    return "full_synthetic" if sample.repainted else "tampered"


def _descriptions(split, entries):
    """Per kind that there is, as published; real images have none."""
    files = {}
    for entry in entries:
        if entry["kind"] != "real":
            file = f"text_label_images/{split}/description/{entry['kind']}_GT.json"
            files.setdefault(file, {})[entry["name"]] = entry["text"]
    return files


LAYOUTS = {layout.name: layout for layout in (
    Layout("synthscars", {}, False, lambda split, sample: f"{split}/images", _write_synthscars,
           lambda split, entries: {f"{split}/annotations/{split}.json": list(entries)}),
    Layout("fakeclue", {"layout": "fakeclue"}, False,
           lambda split, sample: f"{split}/{_verdict(sample)}", _write_fakeclue,
           lambda split, entries: {f"data_json/{split}.json": list(entries)}),
    Layout("sid_set", {"layout": "sid_set"}, True,
           lambda split, sample: f"{split}/{_kind(sample)}", _write_sid_set, _descriptions))}

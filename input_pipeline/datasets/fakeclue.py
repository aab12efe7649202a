"""FakeClue (Wen et al., 2025): real and fake images with an explanation each.

    data_json/{train,test}.json, {train,test}.zip or the same unpacked, {train,test}/

An annotation file is a list of {image, label: 0 fake or 1 real, cate, width, height, conversations:
[{from: human, value: <image>QUESTION}, {from: gpt, value: EXPLANATION}]}. Image names have the
split in front or not, files in the archives have it once, twice or not.

Frames of FaceForensics++ are one group with those of all videos that share a face with theirs
(`face_videos`), in whatever split. Any other image is a group with its equals.
"""

import posixpath
import re
from collections import defaultdict

from input_pipeline.datasets.checks import home, note_size, say_left_out, shown_size
from input_pipeline.datasets.face_videos import faces, videos_of
from input_pipeline.records.dataset import DataSet, Item, Notes, image_hash, unlike_names
from input_pipeline.records.record import (
    REAL,
    SYNTHETIC,
    DataError,
    Record,
    RecordError,
    check_text,
)
from input_pipeline.records.tree import Tree, clean

SPLITS = ("train", "test")
LABELS = {0: SYNTHETIC, 1: REAL}
FACES = ("ff++", "faceforensics++")
NAMES = re.compile(r"(^|/)(ff\+\+|chameleon|genimage|doc|satellite)/", re.I)
GENERATORS = ("adm", "biggan", "glide", "midjourney", "sdv4", "sdv5", "vqdm", "wukong")


class FakeClue(DataSet):
    name = "fakeclue"
    configs = {"published": "Every record, as published.",
               "dedup": "Test records whose group is also in train are skipped."}

    def __init__(self, source: str, config: str):
        super().__init__(source, config)
        self._images: dict[str, tuple[Tree, list[str]]] = {}
        self._train: list[str] = []  # images of train that are groups of their own
        self._sizes: dict[int, list[str]] | None = None

    def unlike_published(self, split, items):
        """The published count is about 5,000; nobody wrote down how many there are."""
        if split != "test" or self.config != "published":
            return f"published results are of test of {self.name}/published alone"
        if not 4_500 <= len(items) <= 5_500:
            return f"{split} has {len(items):,} items, as published about 5,000"
        return unlike_names(split, items, NAMES)

    def splits(self):
        root = home(self.tree, "data_json")
        records, names = {}, {}
        for split in SPLITS:
            places = [f"{root}data_json/{split}.json", f"{root}{split}.json"]
            if path := next((p for p in places if self.tree.has(p)), None):
                self._images[split] = self._open_images(root, split)
                records[split] = self.read_json(path, list)
                names[split] = [_plain_name(record, split) for record in records[split]]
        say_left_out(self.source, (posixpath.basename(name) for name in self.tree.names(
            f"{root}data_json") if name.endswith(".json")),
            [f"{split}.json" for split in SPLITS], SPLITS)
        if not records:
            raise DataError(f"{self.source}: found no data_json/train.json or data_json/test.json")
        if self.config == "dedup" and len(records) < 2:
            raise DataError(f"{self.source}: dedup needs both data_json/train.json and test.json")
        groups = faces(_videos(name) for split in names.values() for name in split)
        of_train = {groups[v[0]] for name in names.get("train", []) if (v := _videos(name))}
        self._train = [name for name in names.get("train", []) if name and not _videos(name)]
        return {split: _items(split, records[split], names[split], groups, of_train)
                for split in records}

    def _open_images(self, root: str, split: str) -> tuple[Tree, list[str]]:
        """The tree with a split's images, and what may stand before their names in it."""
        inside = [f"{split}/", f"{split}/{split}/"]
        if split in self.tree.folders(root.removesuffix("/")):
            return self.tree, [root + start for start in inside]
        if self.tree.has(f"{root}{split}.zip") and not self.tree.is_archive:
            return Tree(f"{self.source}/{root}{split}.zip"), ["", *inside]
        raise DataError(f"{self.source}: found neither {root}{split}/ nor {root}{split}.zip")

    def _find(self, split: str, name: str) -> tuple[Tree, str]:
        tree, starts = self._images[split]
        path = next((start + name for start in starts if tree.has(start + name)), None)
        if path is None:
            raise RecordError("file missing", name)
        return tree, path

    def read(self, item: Item, notes: Notes) -> Record:
        split, record, group, in_train = item.data
        if not isinstance(record, dict):
            raise RecordError("malformed record", "not an object")
        check_text(record.get("image"), "image")
        clean(record["image"])  # names what leads outside
        label = record.get("label")
        if type(label) is not int or label not in LABELS:  # JSON's true would pass for 1
            raise RecordError("unknown label", repr(label))
        question, caption = _turns(record.get("conversations"))
        tree, name = self._find(split, item.id)
        content = tree.read(name)
        note_size(shown_size(content, item.file), record.get("height"), record.get("width"), notes)
        group = group or image_hash(content)
        if self.config == "dedup" and split == "test":
            if in_train or (not _videos(item.id) and self._is_in_train(content, group)):
                raise RecordError("group is also in train", group)
        return Record(
            dataset=self.name, file_name=item.file, image=content, label=LABELS[label],
            group_id=group, category=check_text(record.get("cate", ""), "cate"),
            generator=_generator(item.id) if LABELS[label] == SYNTHETIC else "",
            caption=caption, question=question)

    def _is_in_train(self, content: bytes, digest: str) -> bool:
        """Whether train has the very same image; only those of its length are read."""
        if self._sizes is None:
            sizes = defaultdict(list)
            for name in self._train:
                try:
                    tree, path = self._find("train", name)
                    sizes[tree.size(path)].append(path)
                except RecordError:
                    continue
            self._sizes = sizes
        for path in self._sizes.get(len(content), ()):
            try:
                if image_hash(self._images["train"][0].read(path)) == digest:
                    return True
            except RecordError:
                continue
        return False


def _items(split: str, records: list, names: list[str], groups: dict[str, str],
           of_train: set[str]) -> list[Item]:
    items = []
    for position, (record, name) in enumerate(zip(records, names, strict=True)):
        videos = _videos(name)
        root = groups[videos[0]] if videos else ""
        file = record.get("image") if isinstance(record, dict) else ""
        items.append(Item(name or f"#{position}", file if isinstance(file, str) else "",
                          [split, record, f"ff++/{root}" if root else "", root in of_train]))
    return items


def _plain_name(record, split: str) -> str:
    """Name of a record's image without the split in front; '' when it cannot be one."""
    try:
        name = clean(check_text(record.get("image"), "image"))
    except (AttributeError, RecordError):
        return ""
    while name.startswith(f"{split}/"):
        name = name.removeprefix(f"{split}/")
    return name


def _videos(name: str) -> list[str]:
    """Videos of FaceForensics++ whose faces are in an image; [] for any other image."""
    top, *folders = name.split("/")[:-1] or [""]
    if top.lower() not in FACES:
        return []
    named = [videos for videos in map(videos_of, folders) if videos]
    return named[-1] if named else []


def _generator(name: str) -> str:
    """What made a fake image, as far as its path tells."""
    top, *folders, file = name.split("/") if "/" in name else ("", name)
    top = top.lower()
    if top in FACES:
        methods = [part for part in folders if part != "fake" and not videos_of(part)]
        return methods[0] if methods else ""
    if top == "genimage":
        words = re.split(r"[^a-z0-9]+", file.lower())
        return next((word for word in words if word in GENERATORS), top)
    return top if top == "chameleon" else ""


def _turns(conversations) -> tuple[str, str]:
    """(question, explanation) of a conversation."""
    turns = {}
    for turn in conversations if isinstance(conversations, list) else ():
        if isinstance(turn, dict):
            turns.setdefault(str(turn.get("from")), turn.get("value"))
    if turns.get("gpt") is None:
        raise RecordError("no gpt turn", f"of {len(turns)} turns")
    question = check_text(turns.get("human", ""), "human turn")
    question = re.sub(r"^\s*<image>", "", question).strip()
    return question, check_text(turns["gpt"], "gpt turn").strip()

"""DD-VQA (Zhang et al., 2024): faces of FaceForensics++, with what people see in them.

    DQ_FF++/{train,test}_set/METHOD/METHOD.json      also without DQ_FF++/
    .../METHOD/.../VIDEO/FRAME.png                   frames of the videos, faces cut out

An annotation file is {KEY: {NUMBER: {question, answer: [ANSWER, ...]}}}; KEY is the number of the
method in METHODS, `_`, and the video, `044` or `114_102`. The first question is of the whole face,
those behind it of its parts; of several answers the first is taken.

The frames are not published with it, and nobody wrote down which of them people saw: bring those
of FaceForensics++ in folders as its tools and the benchmarks make them, with the method anywhere
above the video (`original`, `original_sequences` or `youtube` for real ones). Frames of a video go
by their names. Every changed face is label 1, as in other data sets with these videos; the group is
that of all videos that share a face.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence

from input_pipeline.datasets.checks import home, says_image
from input_pipeline.datasets.face_videos import faces, videos_of
from input_pipeline.records.dataset import DataSet, Item, Notes
from input_pipeline.records.record import (
    REAL,
    SYNTHETIC,
    DataError,
    Record,
    RecordError,
    check_text,
)

ORIGINAL = "5"
METHODS = {"0": "Deepfakes", "1": "Face2Face", "2": "FaceShifter", "3": "FaceSwap",
           ORIGINAL: "original", "6": "NeuralTextures"}
_FOLDERS = {name.lower(): number for number, name in METHODS.items()} | {
    "neuraltexture": "6", "original_sequences": ORIGINAL, "youtube": ORIGINAL}
_ANNOTATIONS = re.compile(r"(train|test)_set/[^/]+/[^/]+\.json")
_KEY = re.compile(rf"([{''.join(METHODS)}])_(\d+(?:_\d+)?)")


class DdVqa(DataSet):
    name = "ddvqa"
    configs = {
        "general": "The question of the whole face, with the first frame of each video.",
        "questions": "Every question; the k-th of a video with its k-th frame, as FakeVLM was "
                     "scored."}

    def splits(self):
        root = home(self.tree, "train_set", "test_set")
        found, names = defaultdict(list), self.tree.names()
        for name in names:
            inside = name.removeprefix(root) if name.startswith(root) else ""
            if match := _ANNOTATIONS.fullmatch(inside):
                found[match[1]].append(name)
        if not found:
            raise DataError(f"{self.source}: found no train_set/METHOD/METHOD.json or "
                            f"test_set/METHOD/METHOD.json")
        entries = {split: [(key, asked) for name in found[split]
                           for key, asked in self.read_json(name, dict).items()]
                   for split in ("train", "test") if split in found}
        frames = self._frames(names)
        groups = faces(videos_of(match[2]) for listed in entries.values()
                       for key, _ in listed if (match := _KEY.fullmatch(key)))
        return {split: [item for position, (key, asked) in enumerate(listed)
                        for item in self._items(key, asked, frames, groups) or [
                            Item(f"#{position}", "", None)]]
                for split, listed in entries.items()}

    def _frames(self, names: Sequence[str]) -> dict[tuple[str, str], list[str]]:
        """{(number of the method, video): names of its frames in their order}, of all `names`.

        Raises DataError where those of one video are in several folders.
        """
        folders, frames = {}, defaultdict(list)
        for name in filter(says_image, names):
            *above, video, _ = ["", "", *name.split("/")]
            method = next((_FOLDERS[part.lower()] for part in reversed(above)
                           if part.lower() in _FOLDERS), None)
            if method is None or not videos_of(video):
                continue
            folder = folders.setdefault((method, video), posixpath.dirname(name))
            if folder != posixpath.dirname(name):
                raise DataError(f"{self.source}: frames of {METHODS[method]} {video} are in "
                                f"several folders, {folder} and {posixpath.dirname(name)}; leave "
                                f"one")
            frames[method, video].append(name)
        return {video: sorted(names) for video, names in frames.items()}

    def _items(self, key: str, asked, frames: dict, groups: dict[str, str]) -> list[Item]:
        """One for each question that the config asks; [] where it cannot be told what is asked."""
        match = _KEY.fullmatch(key)
        if not match or not isinstance(asked, dict):
            return []
        names = frames.get((match[1], match[2]), [])
        group = f"ff++/{groups[videos_of(match[2])[0]]}"
        chosen = list(asked.values())[:None if self.config == "questions" else 1]
        return [Item(key if self.config == "general" else f"{key}_{number}",
                     names[number] if number < len(names) else "", [match[1], group, question])
                for number, question in enumerate(chosen)]

    def read(self, item: Item, notes: Notes) -> Record:
        if item.data is None:
            raise RecordError("malformed record", "no METHOD_VIDEO with its questions")
        method, group, asked = item.data
        answers = asked.get("answer") if isinstance(asked, dict) else None
        if not isinstance(answers, list) or not answers:
            raise RecordError("malformed record", "no question with a list of answers")
        if not item.file:
            raise RecordError("file missing", f"frame of {METHODS[method]} for {item.id}")
        content = self.tree.read(item.file)
        return Record(
            dataset=self.name, file_name=item.file, image=content,
            label=REAL if method == ORIGINAL else SYNTHETIC, group_id=group, category="deepfake",
            generator="" if method == ORIGINAL else METHODS[method],
            caption=check_text(answers[0], "answer").strip(),
            question=check_text(asked.get("question", ""), "question").strip())

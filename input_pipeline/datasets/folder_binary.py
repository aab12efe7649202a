"""Real and fake images in folders: ProGAN's training set, ForenSynths, UniversalFakeDetect's tests.

    .../SET/{0_real,1_fake}/FILE or .../SET/CLASS/{0_real,1_fake}/FILE

`0_real` is label 0, `1_fake` is 1 whatever the change, also where a face was swapped. The category
is the class folder; the generator of a fake is its set. Nothing tells which images belong together,
so a group is an image with its equals.

Every test set is a split, because results are given per set. Sets that share their real images
(`guided` with `imagenet`, other diffusion models with `laion`) have a copy of them each.
"""

import logging
import pathlib
import posixpath
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from input_pipeline.datasets.checks import check_image, is_image, say_left_out, says_image
from input_pipeline.records.dataset import DataSet, Item, Notes, image_hash
from input_pipeline.records.record import REAL, SYNTHETIC, DataError, Record, check_text

LOG = logging.getLogger("input_pipeline")
LABELS = {"0_real": REAL, "1_fake": SYNTHETIC}
TRAINING = {"progan_train": "train", "train": "train", "progan_val": "val", "val": "val",
            "test": "", "progan_test": "",
            **dict.fromkeys(("validation", "valid", "dev"), "val")}
CAP, FALLBACK = 1000, 100


class FolderBinary(DataSet):
    """Images whose label is the name of a folder above them."""

    def label_folders(self) -> Iterator[tuple[list[str], int, list[str]]]:
        """(folders above, label, names of the files) of every folder that tells a label."""
        folders, without = defaultdict(list), set()
        for name in self.tree.names():
            folders[posixpath.dirname(name)].append(name)
        for folder, names in folders.items():
            parts = folder.split("/")
            if "__MACOSX" in parts:  # forks that its zips carry along
                continue
            position = next((i for i, part in enumerate(parts) if part.lower() in LABELS), None)
            if position is not None:
                yield parts[:position], LABELS[parts[position].lower()], names
            elif any(map(says_image, names)):
                without.add(folder or ".")
        if without:
            LOG.warning("%s: photos in %s%s left out: no folder above them is called 0_real or "
                        "1_fake", self.source, ", ".join(sorted(without)[:5]),
                        " and others are" if len(without) > 5 else " are")

    def read(self, item: Item, notes: Notes) -> Record:
        label, category, generator = item.data
        check_text(item.file, "file_name")
        content = self.tree.read(item.file)
        check_image(item.file, content)
        return Record(dataset=self.name, file_name=item.file, image=content, label=label,
                      group_id=image_hash(content), category=category, generator=generator)

    def check_one_root(self, split: str, roots: set[str]) -> None:
        """Raises DataError when a split would be gathered from several places."""
        if len(roots) > 1:
            raise DataError(f"{self.source}: {split} is in several folders: "
                            f"{', '.join(sorted(root or '.' for root in roots))}")


def _items(names: Sequence[str], label: int, category: str, generator: str) -> list[Item]:
    data = (label, category, generator if label else "")  # one for all of them
    return [Item(name, name, data) for name in names]


class ProGan(FolderBinary):
    """ProGAN's training set: `progan_train`, `progan_val`, or `progan` below `train` and `val`.

    Folders of classes without such a name above them are the training split.
    """

    name = "progan"
    configs = {"published": "20 classes of LSUN, real and by ProGAN."}

    def published(self):
        return {"train": 720_119}

    def splits(self):
        splits, roots, others = {"train": [], "val": []}, defaultdict(set), set()
        for above, label, names in self.label_folders():
            *root, category = above or [""]
            named = [part for part in (pathlib.PurePath(self.source).stem, *root)
                    if part in TRAINING]
            split = TRAINING[named[-1]] if named else "train"
            if split:
                splits[split] += _items(names, label, category, "progan")
                roots[split].add("/".join(root))
            else:
                others.add("/".join(root))
        say_left_out(self.source, others, (), sorted(name for name in TRAINING if TRAINING[name]))
        for split, places in roots.items():
            self.check_one_root(split, places)
        if not roots:
            raise DataError(f"{self.source}: found no progan_train/CLASS/0_real or 1_fake")
        return {split: items for split, items in splits.items() if items}


class _TestSets(FolderBinary):
    """Several test sets, a split each.

    Attributes:
        sets: {split: folder of its real images where it has none of its own, or ''}.
        spellings: {folder: split} where they differ.
    """

    sets: ClassVar[Mapping[str, str]]
    spellings: ClassVar[Mapping[str, str]] = {}

    def splits(self):
        sets = self._find_sets()
        splits = {}
        for split, shared in self.sets.items():
            if not sets[split, SYNTHETIC]:
                if sets[split, REAL]:
                    raise DataError(f"{self.source}: {split}: found no 1_fake")
                continue
            real = sets[split, REAL] or sets[shared, REAL]
            if not real:
                raise DataError(f"{self.source}: {shared or split}: found no 0_real")
            splits[split] = [
                item for chosen, label in zip(self.choose(real, sets[split, SYNTHETIC]), (
                    REAL, SYNTHETIC), strict=True)
                for category, names in chosen for item in _items(names, label, category, split)]
        if not splits:
            raise DataError(f"{self.source}: found no 0_real and 1_fake in any of: "
                            f"{', '.join(self.sets)}")
        return splits

    def _find_sets(self) -> dict[tuple[str, int], list[tuple[str, list[str]]]]:
        """{(split or shared folder, label): [(class, names of files)]}."""
        known = {*self.sets, *self.sets.values()} - {""}
        sets, roots, others = defaultdict(list), defaultdict(set), set()
        for above, label, names in self.label_folders():
            places = [i for i, part in enumerate(above)
                      if self.spellings.get(part, part) in known]
            if not places or set(above[:places[-1]]) & TRAINING.keys() - {"test"}:
                others.add("/".join(above) or ".")
                continue
            split = self.spellings.get(above[places[-1]], above[places[-1]])
            roots[split].add("/".join(above[:places[-1] + 1]))
            sets[split, label].append(("/".join(above[places[-1] + 1:]), names))
        for split, places in roots.items():
            self.check_one_root(split, places)
        say_left_out(self.source, others, (), sorted(known))
        return sets

    def choose(self, real: list, fake: list) -> tuple[list, list]:
        """What of the real and of the fake [(class, names)] is in the split."""
        return real, fake


class ForenSynths(_TestSets):
    """The 13 test sets of CNNDetection; four of them have class folders."""

    name = "forensynths"
    configs = {"published": "13 test sets of CNN-made images."}
    sets = dict.fromkeys((
        "progan", "stylegan", "biggan", "cyclegan", "stargan", "gaugan", "crn", "imle",
        "seeingdark", "san", "deepfake", "stylegan2", "whichfaceisreal"), "")


class UniversalFakeDetect(_TestSets):
    """The 19 tests of UniversalFakeDetect, eleven of them from ForenSynths.

    "capped" takes what its `validate.py` takes by default: 1000 real and 1000 fake images of a
    set, or 100 and 100 when it has fewer than 1000 of either. Which ones was left to the order of
    the file system; here the names are sorted, shuffled by `random.Random(0)`, real ones first,
    and the first ones taken.
    """

    name = "ufd"
    configs = {"capped": "At most 1000 real and 1000 fake images per set, as validate.py.",
               "all": "Every image."}
    sets = {**dict.fromkeys(("progan", "cyclegan", "biggan", "stylegan", "gaugan", "stargan",
                             "deepfake", "sitd", "san", "crn", "imle"), ""),
            "guided": "imagenet",
            **dict.fromkeys(("ldm_200", "ldm_200_cfg", "ldm_100", "glide_100_27", "glide_50_27",
                             "glide_100_10", "dalle"), "laion")}
    spellings = {"seeingdark": "sitd"}

    def published(self):
        return {split: 2 * CAP for split, shared in self.sets.items() if shared}

    def unlike_published(self, split, items):
        """Of sets with real photos of their own nobody wrote down how many there are."""
        if split in self.published():
            return super().unlike_published(split, items)
        return "" if len(items) >= 2 * FALLBACK else (
            f"{split} has {len(items):,} items, as published at least {2 * FALLBACK}")

    def choose(self, real, fake):
        if self.config == "all":
            return real, fake
        pools = [[(name, category) for category, names in sorted(part) for name in names
                  if is_image(self.tree, name)] for part in (real, fake)]
        limit = CAP if min(map(len, pools)) >= CAP else FALLBACK
        shuffle, chosen = random.Random(0), []
        for pool in map(sorted, pools):
            shuffle.shuffle(pool)
            by_category = defaultdict(list)
            for name, category in sorted(pool[:limit]):
                by_category[category].append(name)
            chosen.append(list(by_category.items()))
        return tuple(chosen)

"""PAL4VST (Zhang et al., 2023): generated images with masks of their perceptual artifacts.

    images/{train,val,test}/*.jpg, labels/{train,val,test}/*.png

A label is 1 where the image is bad, 0 elsewhere, so it looks black; all 0 means nothing is bad, and
what is not 0 is bad, whatever it is.
The root may be a folder of the source (`unified`), if it is the only one.
"""

import posixpath

from input_pipeline.datasets.checks import is_image, say_left_out, shown_size
from input_pipeline.photos.regions import RegionError, mask_to_png, png_to_mask
from input_pipeline.records.dataset import DataSet, Item, Notes, image_hash
from input_pipeline.records.record import SYNTHETIC, DataError, Record, RecordError

SPLITS = ("train", "val", "test")
ALSO = {"validation": "val", "valid": "val", "dev": "val"}  # other names of splits


class Pal4Vst(DataSet):
    name = "pal4vst"
    configs = {"published": "Generated images; what is bad is marked, which may be nothing."}

    def published(self):
        return {"test": 1_441}

    def splits(self):
        top = self.tree.folders()
        roots = [""] if "images" in top else [
            f"{folder}/" for folder in top if "images" in self.tree.folders(folder)]
        if len(roots) > 1:
            raise DataError(f"{self.source}: several folders have images, name one of: "
                            f"{', '.join(roots)}")
        splits, folders = {}, self.tree.folders(f"{roots[0]}images") if roots else []
        for folder in folders:
            split = ALSO.get(folder, folder)
            if split in SPLITS and (items := self._items(roots[0], folder)):
                if split in splits:
                    raise DataError(f"{self.source}: several folders are its {split} split, among "
                                    f"them {folder}; leave one")
                splits[split] = items
        say_left_out(self.source, folders, (*SPLITS, *ALSO), (*SPLITS, *ALSO))
        if not splits:
            raise DataError(f"{self.source}: found no images/train, images/val or images/test")
        return {split: splits[split] for split in SPLITS if split in splits}

    def _items(self, root: str, folder: str) -> list[Item]:
        """One for every image and for every label without one."""
        homes = f"{root}images/{folder}", f"{root}labels/{folder}"
        images, labels = {}, {}
        for home, names_of in zip(homes, (images, labels), strict=True):
            for name in self.tree.names(home):
                if not is_image(self.tree, name):
                    continue
                stem = posixpath.splitext(name.removeprefix(f"{home}/"))[0]
                names_of.setdefault(stem, []).append(name)
        items = [Item(stem, name, labels.get(stem, [""])[0])
                 for stem, names in images.items() for name in names]
        return items + [Item(stem, "", label) for stem, (label, *_) in labels.items()
                        if stem not in images]

    def read(self, item: Item, notes: Notes) -> Record:
        if not item.file:
            raise RecordError("file missing", f"image of {item.data}")
        if not item.data:
            raise RecordError("file missing", f"label of {item.file}")
        content, label = self.tree.read(item.file), self.tree.read(item.data)
        size = shown_size(content, item.file)
        try:
            mask = png_to_mask(label)
        except RegionError as error:
            raise RecordError("unreadable label", f"{item.data}: {error}") from error
        if mask.shape != size:
            raise RecordError("label of another size", f"{mask.shape[1]}x{mask.shape[0]} for an "
                                                       f"image of {size[1]}x{size[0]}")
        return Record(
            dataset=self.name, file_name=item.file, image=content, label=SYNTHETIC,
            group_id=image_hash(content), has_masks=True, union_mask=mask_to_png(mask))

"""DMimage (Corvi et al., 2023): images of GANs and diffusion models beside real ones; for testing.

    SET/FILE.png, or one folder around all of them

Sets `real_coco_valid`, `real_imagenet_valid`, `real_ucid`, ... hold the real photos, which are
downloaded on their own; any other is named for what generated its images, such as `biggan_256`, and
is known by the beginning of its name. The paper crops, resizes and compresses every image as its
`operations.csv` says; the script of its authors writes a tree of this form, so either can be read.
"""

from input_pipeline.datasets.checks import check_image, say_left_out
from input_pipeline.records.dataset import DataSet, Item, Notes, image_hash
from input_pipeline.records.record import REAL, SYNTHETIC, DataError, Record, check_text

REALS = "real_"
GENERATORS = ("biggan", "dalle", "eg3d", "glide", "guided-diffusion", "latent-diffusion", "progan",
              "stable_diffusion", "stylegan2", "stylegan3", "taming-transformers")


class DmImage(DataSet):
    name = "dmimage"
    configs = {"published": "Real photos and images of GANs and diffusion models."}

    def splits(self):
        top = self.tree.folders()
        roots = [""] if any(map(_is_set, top)) else [
            f"{folder}/" for folder in top if any(map(_is_set, self.tree.folders(folder)))]
        if len(roots) > 1:
            raise DataError(f"{self.source}: several folders have sets, name one of: "
                            f"{', '.join(roots)}")
        sets = self.tree.folders(roots[0].removesuffix("/")) if roots else []
        for kind, wanted in ((REALS, "real_coco_valid, real_imagenet_valid or real_ucid"),
                             (GENERATORS, "a generator's, such as biggan_256")):
            if not any(name.startswith(kind) for name in sets):
                raise DataError(f"{self.source}: found no folder {wanted}")
        say_left_out(self.source, (name for name in sets if not name.startswith((".", "__MACOSX"))),
                     list(filter(_is_set, sets)), (f"{REALS}...", *GENERATORS))
        return {"test": [item for name in filter(_is_set, sets)
                         for item in self._items(roots[0], name)]}

    def _items(self, root: str, name: str) -> list[Item]:
        return [Item(file.removeprefix(root), file, name)
                for file in self.tree.names(root + name)]

    def read(self, item: Item, notes: Notes) -> Record:
        check_text(item.file, "file_name")
        content = self.tree.read(item.file)
        check_image(item.file, content)
        real = item.data.startswith(REALS)
        return Record(dataset=self.name, file_name=item.file, image=content,
                      label=REAL if real else SYNTHETIC, group_id=image_hash(content),
                      generator="" if real else item.data)


def _is_set(folder: str) -> bool:
    return folder.startswith((REALS, *GENERATORS))

"""What towers want to see of a photo: the fields of an example that a view adds, and their makers.

A view is chosen beside its tower, in `legion_jax.models`; here is what the host does for it.
"""

import dataclasses
from typing import Protocol

import numpy as np
from PIL import Image

from input_pipeline.errors import UserError
from input_pipeline.photos import images

Fields = dict[str, tuple[tuple[int, ...], type]]


class View(Protocol):
    """One tower's view of photos."""

    @property
    def fields(self) -> Fields:
        """{name: (shape, dtype)} of what the view adds to an example."""

    def see(self, photo: np.ndarray | Image.Image) -> dict[str, np.ndarray]:
        """These fields of a photo, uint8[H, W, 3] or PIL's."""

    def blank(self) -> dict[str, np.ndarray]:
        """These fields of a black square photo."""

    @property
    def least(self) -> tuple[int, int]:
        """(short side, long side) in px that the view needs of a photo; see `images.read_photo`."""


@dataclasses.dataclass(frozen=True)
class CropView:
    """The centre square of a photo whose short side became `size` px: `vision_image`.

    What CLIP wants; see `images.clip_image`.
    """

    size: int

    @property
    def fields(self) -> Fields:
        return {"vision_image": ((self.size, self.size, 3), np.uint8)}

    def see(self, photo: np.ndarray | Image.Image) -> dict[str, np.ndarray]:
        return {"vision_image": images.clip_image(photo, self.size)}

    def blank(self) -> dict[str, np.ndarray]:
        return {"vision_image": np.zeros((self.size, self.size, 3), np.uint8)}

    @property
    def least(self) -> tuple[int, int]:
        return self.size, self.size


@dataclasses.dataclass(frozen=True)
class CanvasView:
    """A whole photo in the corner of a square: `sam_image`, and in `resized_size` how much of it.

    What SAM wants; see `images.sam_image`. `canvas` is the square's side, `longest` that of the
    photo in it, both in px.
    """

    canvas: int
    longest: int

    def __post_init__(self):
        if not 0 < self.longest <= self.canvas:
            raise UserError(f"sam_longest: 1 to the canvas of SAM ({self.canvas}), got "
                            f"{self.longest}")

    @property
    def fields(self) -> Fields:
        return {"sam_image": ((self.canvas, self.canvas, 3), np.uint8),
                "resized_size": ((2,), np.int32)}

    def see(self, photo: np.ndarray | Image.Image) -> dict[str, np.ndarray]:
        image, resized = images.sam_image(photo, self.longest, self.canvas)
        return {"sam_image": image, "resized_size": np.array(resized, np.int32)}

    def blank(self) -> dict[str, np.ndarray]:
        return {"sam_image": np.zeros((self.canvas, self.canvas, 3), np.uint8),
                "resized_size": np.full(2, self.longest, np.int32)}

    @property
    def least(self) -> tuple[int, int]:
        return 1, self.longest

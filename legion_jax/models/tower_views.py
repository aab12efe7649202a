"""What each tower wants to see of a photo; `input_pipeline.photos.views` makes it on the host."""

from input_pipeline.photos.views import CanvasView, CropView, View
from legion_jax.config import LegionConfig


def of_vision(config: LegionConfig) -> View:
    """CLIP's view: the centre square."""
    return CropView(config.vision.image_size)


def of_sam(config: LegionConfig, longest: int = 0) -> CanvasView | None:
    """SAM's view, with the photo's longer side of `longest` px, 0 for all there is room for.

    None of a model without SAM.
    """
    if config.sam is None:
        return None
    return CanvasView(config.sam.image_size, longest or config.sam.image_size)

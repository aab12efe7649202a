"""Photos as small pictures inside a page."""

from collections.abc import Callable, Mapping

from PIL import Image

from input_pipeline import images
from input_pipeline.errors import UserError
from legion_jax import web

SIDE = 640  # px of a picture's longer side, at most
# id -> the encoded file, as a record's `image`.
Photos = Mapping[str, bytes] | Callable[[str], bytes | None]


def find(photos: Photos, name: str) -> bytes | None:
    """The encoded photo of an id, or None where there is none."""
    if callable(photos):
        return photos(name)
    return photos.get(name)


def picture(content: bytes, name: str, size: tuple[int, int] | None) -> str:
    """A photo as a JPEG in base64, its longer side at most SIDE pixels.

    Args:
        content: the encoded file.
        name: id of the photo, for errors.
        size: (height, width) that masks of it have; None where nothing tells.

    Raises:
        ImageError: not readable as a photo.
        UserError: the photo has another size.
    """
    needed = None
    if size is not None:
        scale = min(1.0, SIDE / max(size))
        needed = (max(1, round(scale * min(size))), max(1, round(scale * max(size))))
    photo, found = images.read_photo(content, name=f"photo {name}", at_least=needed)
    if size is not None and tuple(size) != tuple(found):
        raise UserError(f"photo {name}: {found[1]}x{found[0]} pixels, but rows.jsonl tells "
                        f"{size[1]}x{size[0]}; are these photos of another data set?")
    scale = min(1.0, SIDE / max(found))
    sides = max(1, round(scale * found[1])), max(1, round(scale * found[0]))
    small = photo if photo.size == sides else photo.resize(sides, Image.Resampling.LANCZOS)
    return web.base64_picture(small, "JPEG", quality=80, optimize=True)

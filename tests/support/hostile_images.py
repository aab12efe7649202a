"""A folder of more than a hundred files that a reader of photos may stumble over."""

import io
import os
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, features

# How many photos of `make` have a result; each of the others fails, with these words among others.
FAILS = {
    "truncated": "", "not_an_image": "not an image", "zero_bytes": "not an image",
    "text.jpg": "not an image", "html.png": "not an image",
    "bomb_60000x60000": "(3600000000 pixels) exceeds limit",
    "bomb_16000x16000": "(256000000 pixels) exceeds limit", "wide_20000x20": "20000 x 20 pixels",
    "tall_20x20000": "20 x 20000 pixels", "no_width": "", "float": "floating-point",
    "int32": "exceed 16 bits", "fifo": "not a file", "broken_link": "No such file",
    "link_to_itself": "symbolic links", "too_many_bytes": "bytes, limit", "vanishes": "vanish",
    "partial_progressive": "truncated", "wrong_crc": "", "svg": "not an image",
    "text_bomb": "too large"}


def make(root: pathlib.Path) -> None:
    """Fill `root`; the names of what cannot have a result begin with a key of FAILS."""
    root.mkdir()
    for name, content in {**_good(), **_cut(), **_odd(), **_bad()}.items():
        (root / name).write_bytes(content)
    os.mkfifo(root / "fifo.jpg")
    (root / "broken_link.jpg").symlink_to(root / "nowhere.jpg")
    (root / "link_to_itself.jpg").symlink_to(root / "link_to_itself.jpg")
    (root / "good_link.png").symlink_to(root / "good_jpeg.jpg")
    (root / "folder.jpg").mkdir()
    (root / "folder.jpg" / "good_inside.png").write_bytes(encoded(_photo()))
    (root / "folder.jpg" / "loop").symlink_to(root)
    (root / "folder.jpg" / ".hidden.png").write_bytes(b"")
    (root / "good_or_not_permitted.png").write_bytes(encoded(_photo()))
    (root / "good_or_not_permitted.png").chmod(0)


def reason(name: str) -> str | None:
    """What the error of a file says, or None where it has a result."""
    return next((text for start, text in FAILS.items() if name.startswith(start)), None)


def _photo(height=40, width=56, mode="RGB") -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 5 % 256, columns * 4 % 256, (rows + columns) % 256], -1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The bytes of a file of that kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _good() -> dict[str, bytes]:
    photo, frames = _photo(), [_photo(40, 56, "L").convert("RGB"), _photo()]
    files = {
        "good_jpeg.jpg": encoded(photo, "JPEG"),
        "good_progressive.jpg": encoded(photo, "JPEG", progressive=True),
        "good_cmyk.jpg": encoded(_photo(mode="CMYK"), "JPEG"),
        "good_grey.jpg": encoded(_photo(mode="L"), "JPEG"),
        "good_ycck_no_suffix": encoded(photo, "JPEG", subsampling=0),
        "good_png_named.jpg": encoded(photo),
        "good_jpeg_named.png": encoded(photo, "JPEG"),
        "good_webp_named.gif": encoded(photo, "WEBP"),
        "good_1x1.png": encoded(_photo(1, 1)), "good_1x1.jpg": encoded(_photo(1, 1), "JPEG"),
        "good_1x1.gif": encoded(_photo(1, 1), "GIF"),
        "good_ratio.png": encoded(_photo(2, 128)),
        "good_bits.png": encoded(_photo(mode="1")),
        "good_palette.png": encoded(photo.quantize(17), transparency=bytes(range(17))),
        "good_palette_one.png": encoded(photo.quantize(17), transparency=3),
        "good_alpha.png": encoded(_photo(mode="RGBA")),
        "good_grey_alpha.png": encoded(_photo(mode="LA")),
        "good_16_bits.png": encoded(Image.fromarray(_deep(np.uint16))),
        "good_16_bits.tiff": encoded(Image.fromarray(_deep(np.uint16)), "TIFF"),
        "good_lzw.tiff": encoded(photo, "TIFF", compression="tiff_lzw"),
        "good_lab.tiff": encoded(_lab(photo), "TIFF"),
        "good_pages.tiff": encoded(photo, "TIFF", save_all=True, append_images=frames),
        "good_bmp.bmp": encoded(photo, "BMP"), "good_ppm.ppm": encoded(photo, "PPM"),
        "good_gif.gif": encoded(photo, "GIF"),
        "good_moving.gif": encoded(photo, "GIF", save_all=True, append_images=frames),
        "good_moving.webp": encoded(photo, "WEBP", save_all=True, append_images=frames),
        "good_moving.png": encoded(photo, "PNG", save_all=True, append_images=frames),
        "good_pair.mpo": encoded(photo, "MPO", save_all=True, append_images=frames),
        "good_profile.jpg": encoded(photo, "JPEG", icc_profile=b"\x01" * 900_000),
        "good_comment.jpg": encoded(photo, "JPEG", comment=b"c" * 65_000),
        "good_exif.jpg": encoded(photo, "JPEG", exif=b"Exif\0\0" + b"\xff" * 65_000),
        "good_trailer.jpg": encoded(photo, "JPEG") + b"\0" * 100_000,
        "good_panorama.jpg": encoded(Image.new("RGB", (9000, 450), (200, 9, 9)), "JPEG"),
        **{f"good_large_{k}.png": encoded(Image.new("L", (4000, 4000), 130)) for k in range(8)},
        "good_\U0001f99c \u202egnp.name\n'\".png": encoded(photo),
        f"good_{'x' * 240}.png": encoded(photo)}
    for number in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = number
        files[f"good_turned_{number}.jpg"] = encoded(photo, "JPEG", exif=exif)
    for codec, kind, ending in (("avif", "AVIF", "avif"), ("jpg_2000", "JPEG2000", "jp2")):
        if features.check(codec):
            files[f"good_{ending}.{ending}"] = encoded(photo, kind)
    return files


def _cut() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
    return {f"truncated_{keep}.{kind.lower()}": (content := encoded(noise, kind))[
        :int(len(content) * keep / 100)]
        for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP") for keep in (1, 10, 40, 70, 95)}


def _odd() -> dict[str, bytes]:
    """Files with one byte changed somewhere: results or errors, whichever PIL makes of them."""
    rng, files = np.random.default_rng(1), {}
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP"):
        for number in range(5):
            content = bytearray(encoded(_photo(), kind))
            content[rng.integers(8, len(content))] ^= 0xFF
            files[f"any_flipped_{number}.{kind.lower()}"] = bytes(content)
    return files


def _bad() -> dict[str, bytes]:
    progressive = encoded(_photo(200, 200), "JPEG", progressive=True)
    png = bytearray(encoded(_photo()))
    png[len(png) // 2] ^= 0xFF
    return {
        "zero_bytes.jpg": b"", "text.jpg": b"this is a text\n" * 50, "svg.png": b"<svg></svg>",
        "html.png": b"<!DOCTYPE html><html>404</html>", "not_an_image.webp": b"RIFF\0\0\0\0WEBP",
        "not_an_image.jpg": bytes(4096),
        "bomb_60000x60000.png": empty_png(60000, 60000),
        "bomb_16000x16000.png": empty_png(16000, 16000),
        "bomb_60000x60000.bmp": _bmp(60000, 60000), "no_width.png": empty_png(0, 9),
        "wide_20000x20.png": encoded(_photo(20, 20000)),
        "tall_20x20000.jpg": encoded(_photo(20000, 20), "JPEG"),
        "vanishes.png": encoded(_photo(1, 180)),
        "float.tiff": encoded(Image.fromarray(_deep(np.float32)), "TIFF"),
        "int32.tiff": encoded(Image.fromarray(_deep(np.int32) + 70_000), "TIFF"),
        "partial_progressive.jpg": progressive[:len(progressive) // 2],
        "wrong_crc.png": bytes(png),
        "too_many_bytes.jpg": encoded(_photo(), "JPEG") + b"\0" * (3 << 20),
        "text_bomb.png": empty_png(
            8, 8, _chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b" * (9 << 20))))}


def _deep(kind) -> np.ndarray:
    return (np.arange(40 * 56).reshape(40, 56) * 29).astype(kind)


def _lab(photo: Image.Image) -> Image.Image:
    return Image.merge("LAB", photo.split())


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def empty_png(width: int, height: int, more: bytes = b"") -> bytes:
    """A PNG that says it is so large, and has next to no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + more
            + _chunk(b"IDAT", zlib.compress(b"\0" * 99)) + _chunk(b"IEND", b""))


def _bmp(width: int, height: int) -> bytes:
    return (b"BM" + struct.pack("<IHHI", 70, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + b"\0" * 16)

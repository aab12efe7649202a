"""Text under or above a picture, in the one font that needs no file."""

import functools
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

STRIP = (22, 24, 29)
MAX_LINES = 4  # of one paragraph
Colour = tuple[int, int, int]

# The built-in font knows ASCII and little else; these have no decomposition into it.
_SPELLED = str.maketrans({
    "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-", "×": "x", "→": "->", "≥": ">=", "≤": "<=",
    "ß": "ss", "æ": "ae", "Æ": "Ae", "ø": "o", "Ø": "O", "œ": "oe", "Œ": "Oe", "ł": "l", "Ł": "L",
    "«": '"', "»": '"', "„": '"',
})


def draw_strip(paragraphs: Sequence[tuple[str, Colour | None]], width: int,
               text_size: int) -> Image.Image:
    """The paragraphs on a dark ground, RGB of the given width; zero pixels high without any.

    Those with a colour are numbered from 1 and printed in it; those without are headings.
    """
    margin = round(text_size * 0.8)
    indent = margin + round(font(text_size).getlength(str(len(paragraphs))) + text_size)
    rows, y, number = [], margin, 0  # (x, y, text, size, colour)
    for text, tone in paragraphs:
        size, left, ink = round(text_size * 1.3), margin, (255, 255, 255)
        if tone is not None:
            number += 1
            # Halfway to white: the darker colours would not be readable on the strip.
            size, left, ink = text_size, indent, tuple((c + 255) // 2 for c in tone)
            rows.append((margin, y, str(number), size, ink))
        for line in wrap(text, width - left - margin, size):
            rows.append((left, y, line, size, ink))
            y += round(size * 1.35)
        y += text_size // 3
    strip = Image.new("RGB", (width, y + margin // 2 if paragraphs else 0), STRIP)
    draw = ImageDraw.Draw(strip)
    for left, top, line, size, ink in rows:
        draw.text((left, top), line, font=font(size), fill=ink)
    return strip


def wrap(text: str, width: float, size: int) -> list[str]:
    """Breaks text into at most MAX_LINES lines of `width` pixels; what is cut off becomes "..."."""
    face, lines = font(size), [""]
    for word in spell(text).split():
        longer = f"{lines[-1]} {word}".lstrip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:  # a word longer than a line is broken anywhere
            if lines[-1] and face.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if len(lines) > MAX_LINES:
        last = lines[MAX_LINES - 1]
        while last and face.getlength(last + "...") > width:
            last = last[:-1]
        lines = [*lines[:MAX_LINES - 1], last.rstrip() + "..."]
    return lines


def spell(text: str) -> str:
    """The text in letters the built-in font has; accents are dropped, the rest becomes "?"."""
    plain = unicodedata.normalize("NFKD", text.translate(_SPELLED))
    letters = (c for c in plain if not unicodedata.combining(c))
    return "".join(c if c.isspace() or _has_glyph(c) else "?" for c in letters)


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font at a size in pixels."""
    return ImageFont.load_default(size=size)


@functools.cache
def _has_glyph(letter: str) -> bool:
    face = font(20)
    return bytes(face.getmask(letter)) != bytes(face.getmask("\uffff"))

"""Names of results: the photos' own, made safe for any file system and told apart."""

import functools
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

LONGEST_PART, LONGEST_NAME = 180, 700  # bytes in UTF-8; file systems stop at 255 and 1024 or 4096
LONGEST_SUFFIX = 10  # characters; what is longer after a dot is a part of the name
TAKEN = ("job",)  # job.json is the job's own
OWN_FOLDER = "parts"  # and so is this folder
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
# Control characters, those that turn the direction of writing, and what Windows forbids or patterns
# take for something else (removing "a[1]" from a bucket may remove "a1").
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
                     "\ud800-\udfff<>:\"|?*\\[\\]\\\\]")


def output_names(names: Sequence[str]) -> list[str]:
    """A name without suffix for the results of every photo, in their order.

    It is the photo's own path below the source, folders joined by "/", with its suffix ("a_jpg")
    where two would be equal and a number where two still are. No name leads out of a folder, has
    control characters or is too long for a file system, and no two are equal where upper and lower
    case, or the ways to write an accent, are not told apart.

    Args:
        names: unique paths, absolute ones and URIs among them.
    """
    stems, suffixes = zip(*map(_split, names), strict=True) if names else ((), ())
    keys = [_key(stem) for stem in stems]
    number = Counter([*keys, *TAKEN])
    taken, unique = {*TAKEN}, [""] * len(names)
    # Those that need no suffix first: n_jpg.png keeps its name beside n.jpg and n.png.
    for index in sorted(range(len(names)), key=lambda i: number[keys[i]] > 1):
        name = stems[index]
        if number[keys[index]] > 1:
            name = f"{name}_{suffixes[index] or 'file'}"
        unique[index] = _free(name, taken)
    return unique


def _free(name: str, taken: set[str]) -> str:
    first, number = name, 2
    while (key := _key(name)) in taken:
        name, number = f"{first}_{number}", number + 1
    taken.add(key)
    return name


def _key(name: str) -> str:
    """Equal for names some file system takes for the same."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _split(name: str) -> tuple[str, str]:
    """Safe path without suffix, and the suffix."""
    *folders, last = name.replace("://", "/").split("/")
    stem, dot, suffix = last.rpartition(".")
    if not dot or not stem or len(suffix) > LONGEST_SUFFIX:
        stem, suffix = last, ""
    parts = [_safe_folder(part, top=not k) for k, part in enumerate(f for f in folders if f)]
    path = "/".join([*parts, _safe(stem)])
    if len(path.encode()) > LONGEST_NAME:
        path = f"{_digest(name)}/{_safe(stem)}"
    return path, _safe(suffix) if suffix else ""


@functools.lru_cache(1024)
def _safe_folder(part: str, *, top: bool) -> str:
    """Also unlike any file of a result, which ends in .json or .png, and the job's own folder."""
    safe = _safe(part)
    ours = safe.lower().endswith((".json", ".jsonl", ".png")) or (
        top and safe.lower() == OWN_FOLDER)
    return f"{safe}_" if ours else safe


def _safe(part: str) -> str:
    if _PLAIN.fullmatch(part) and len(part) <= LONGEST_PART:
        return part
    safe = _UNSAFE.sub("_", part)
    if safe.startswith("."):  # hidden, or a way upwards
        safe = "_" + safe[1:]
    if safe.endswith((".", " ")):
        safe = safe[:-1] + "_"
    encoded = safe.encode()
    if len(encoded) > LONGEST_PART:
        safe = f"{encoded[:LONGEST_PART - 17].decode(errors='ignore')}-{_digest(part)}"
    return safe or "_"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

"""Slim golden cases: one archive of a case without its largest arrays, which says what it lacks.

An archive holds the case's own files, byte for byte, but for inputs.npz and outputs.npz, which hold
fewer arrays, and slim.json, which lists the arrays and files that were kept and those left out.
"""

import contextlib
import hashlib
import io
import json
import pathlib
import tarfile
import tempfile
from collections.abc import Iterator

import numpy as np

from input_pipeline import files
from input_pipeline.errors import UserError

ARCHIVE, MANIFEST, FORMAT = "case.tar.xz", "slim.json", 1
ARRAYS = ("inputs.npz", "outputs.npz")
# The largest arrays, each of which others stand for: photos that lie beside them as files, the
# pixels CLIP sees, of which preprocess/ has some, and activations that are recorded in part, too.
LEFT_OUT_ARRAYS = ("clip_pixels", "image_0_u8", "image_1_u8", "train_lowres_f16",
                   "train_last_hidden", "train_inputs_embeds", "train_sam_emb_0_f16")
LEFT_OUT_FILES = ("images/train_sam_resized_*.png", "sam/*.pth", "sensitivity.json", "noise.json",
                  "train_curve/*", "*.log", "report.json")


class SlimError(UserError):
    """A slim case that is not what its slim.json says."""


def write(folder: pathlib.Path, archive: pathlib.Path) -> None:
    """Write a case of LEGION without LEFT_OUT_ARRAYS and LEFT_OUT_FILES as an archive.

    Raises SlimError for another folder.
    """
    for name in ARRAYS:
        if not (folder / name).exists():
            raise SlimError(f"{folder / name}: not there; only cases of LEGION are made slim")
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in ARRAYS)
    dropped = {p for pattern in LEFT_OUT_FILES for p in folder.glob(pattern)}
    names = {p: p.relative_to(folder).as_posix() for p in paths}
    manifest = {"format": FORMAT, "sha256": {}, "kept": {}, "left_out": {}}
    contents = {names[p]: p.read_bytes() for p in paths if p not in dropped}
    manifest["kept"]["files"] = sorted(contents)
    manifest["left_out"]["files"] = sorted(names[p] for p in paths if p in dropped)
    for name in ARRAYS:
        arrays = dict(np.load(folder / name))
        slim = {key: array for key, array in arrays.items() if key not in LEFT_OUT_ARRAYS}
        manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        manifest["kept"][name] = sorted(slim)
        manifest["left_out"][name] = sorted(arrays.keys() - slim.keys())
        buffer = io.BytesIO()
        np.savez(buffer, **slim)  # not compressed: the archive does that better
        contents[name] = buffer.getvalue()
    contents[MANIFEST] = json.dumps(manifest, indent=1).encode() + b"\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as tar:
        for name in sorted(contents):
            member = tarfile.TarInfo(name)  # no date, no owner: the same case, the same bytes
            member.size = len(contents[name])
            tar.addfile(member, io.BytesIO(contents[name]))
    files.write_bytes(archive, buffer.getvalue())


@contextlib.contextmanager
def unpacked(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder itself, or a temporary one with what its archive holds."""
    if not (folder / ARCHIVE).exists():
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(folder / ARCHIVE) as tar:
        tar.extractall(scratch, filter="data")
        yield pathlib.Path(scratch)


def left_out(folder: pathlib.Path) -> dict[str, frozenset[str]]:
    """Names of what a case is known to lack, by "files", "inputs.npz" and "outputs.npz".

    Raises SlimError when anything is missing that slim.json says was kept.
    """
    if not (folder / MANIFEST).exists():
        return dict.fromkeys(("files", *ARRAYS), frozenset())
    manifest = json.loads((folder / MANIFEST).read_text())
    if manifest["format"] != FORMAT:
        raise SlimError(f"{folder / MANIFEST}: format {manifest['format']}, wanted {FORMAT}")
    for name, listed in manifest["kept"].items():
        present = ({k for k in listed if (folder / k).exists()} if name == "files"
                   else set(np.load(folder / name)))
        if missing := sorted(set(listed) - present):
            raise SlimError(f"{folder / name}: {MANIFEST} says that {', '.join(missing)} was kept, "
                            f"but it is not there")
    return {name: frozenset(names) for name, names in manifest["left_out"].items()}

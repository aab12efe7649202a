"""One parser against mutated files: `python -m fuzz_run TARGET SEED NUMBER`.

Every case ends within seconds and without much memory, in a value or in an error that the parser
documents. Prints how many ended in which, and what failed.
"""

import collections
import contextlib
import io
import json
import os
import pathlib
import random
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import traceback
import zipfile

import fuzz_sources
import numpy as np
import safetensors.numpy
from PIL import Image

from input_pipeline import strict_json
from input_pipeline.datasets import open_dataset, tfrecord
from input_pipeline.datasets.parquet import Rows
from input_pipeline.errors import UserError
from input_pipeline.photos import images, regions
from input_pipeline.records.dataset import Notes
from input_pipeline.records.record import RecordError
from input_pipeline.records.tree import Tree
from input_pipeline.text import conversation, tokenizer_files
from legion_jax.weights import tensor_file

SECONDS, MEMORY = 10, 2 << 30  # of a case; addresses beside those of the imports
KNOWN = (UserError, RecordError)


def _zip(files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def _tar(files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _photo(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(32 * 24 * 3, dtype=np.uint8).reshape(24, 32, 3)).save(out, kind)
    return out.getvalue()


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq
    out = io.BytesIO()
    pq.write_table(pa.table({"img_id": ["a", "b", "c"], "label": [0, 1, 2]}), out)
    return out.getvalue()


def _tfrecord() -> bytes:
    record, out = b"\n\x12\n\x10\n\x01a\x12\x0b\n\t\n\x07content", b""
    for _ in range(3):
        length = struct.pack("<Q", len(record))
        out += length + struct.pack("<I", tfrecord.masked_crc32c(length)) + record + struct.pack(
            "<I", tfrecord.masked_crc32c(record))
    return out


FILES = {"a.png": _photo("PNG"), "b/c.jpg": _photo("JPEG"), "manifest.jsonl": b'{"image": "a.png"}'}
LINE = {"image": "a.png", "id": "x", "label": "tampered", "caption": "a hand and a sign",
        "regions": [{"phrase": "hand", "polygons": [[1, 1, 9, 1, 9, 9]], "start": 2, "end": 6}]}
ANSWER = "The <p> left hand </p> [SEG] and the <p> sign </p> [SEG] are <p> odd </p> [SEG]. Fake."


def _in_file(suffix, read):
    def run(content: bytes, folder: pathlib.Path):
        path = folder / f"case{suffix}"
        path.write_bytes(content)
        return read(path)
    return run


def _read_tree(path):
    tree = Tree(path)
    for name in tree.names()[:20]:
        tree.read(name)


def _read_jsonl(content, folder):
    (folder / "manifest.jsonl").write_bytes(content)
    (folder / "a.png").write_bytes(FILES["a.png"])
    dataset = open_dataset("jsonl/records", str(folder))
    for items in dataset.splits().values():
        for item in items:
            dataset.read(item, Notes()).as_features()


def _read_parquet(path):
    rows = Rows(str(path.parent))
    for group, row, _ in rows.index(path.name, ["img_id"]):
        rows.read(path.name, group, row)


def _read_tfrecord(content, _):
    for frame in tfrecord.frames(content):
        tfrecord.parse_example(tfrecord.read_frame(content, frame))


def _read_polygons(content, _):
    value = strict_json.parse(content, "polygons", list)
    for rasteriser in regions.RASTERISERS:
        regions.polygons_to_mask(value, 40, 50, rasteriser=rasteriser)
    regions.polygons_to_bits(value, 40, 50)


def _read_answer(content, _):
    parsed = conversation.parse_answer(content.decode(errors="replace"))
    conversation.locate_phrases(parsed.explanation, [r.phrase for r in parsed.regions])


def _read_pickle(path):
    from legion_jax.convert.tensor_folder import TensorFolder
    return TensorFolder(path)


def _state() -> bytes:
    import torch
    out = io.BytesIO()
    torch.save({"a": torch.arange(4.0), "b": torch.zeros(2, 3)}, out)
    return out.getvalue()


# {target: (a good file, made when it is wanted; what reads it)}
TARGETS = {
    "json": (lambda: json.dumps(LINE).encode(), lambda c, _: strict_json.parse(c, "x", object)),
    "jsonl": (lambda: (json.dumps(LINE) + "\n" + json.dumps({"image": "a.png"})).encode(),
              _read_jsonl),
    "zip": (lambda: _zip(FILES), _in_file(".zip", _read_tree)),
    "tar": (lambda: _tar(FILES), _in_file(".tar", _read_tree)),
    "parquet": (_parquet, _in_file(".parquet", _read_parquet)),
    "tfrecord": (_tfrecord, _read_tfrecord),
    "polygons": (lambda: b"[[1, 1, 9.5, 1, 9, 9, 3, 20], [30, 30, 45, 30, 45, 39]]",
                 _read_polygons),
    "run lengths": (lambda: json.dumps(regions.mask_to_rle(np.eye(20, 30))).encode(),
                    lambda c, _: regions.rle_to_mask(strict_json.parse(c, "x"))),
    "mask": (lambda: regions.mask_to_png(np.eye(20, 30, dtype=np.uint8)),
             lambda c, _: regions.png_to_mask(c)),
    **{kind: (lambda kind=kind: _photo(kind), lambda c, _: images.read_image(c))
       for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF")},
    "safetensors": (lambda: safetensors.numpy.save({"a": np.ones((2, 3)), "b": np.zeros(4)}),
                    _in_file(".safetensors", lambda path: _open_safetensors(path))),
    "pickle": (_state, _in_file(".bin", lambda path: _read_pickle(path.parent))),
    "added tokens": (lambda: b'{"[SEG]": 32003, "<p>": 32004}',
                     lambda c, _: tokenizer_files.load_added(c, file="x")),
    "answer": (lambda: ANSWER.encode(), _read_answer),
    **fuzz_sources.TARGETS,
}


def _open_safetensors(path):
    from legion_jax.convert.tensor_folder import open_safetensors
    reader = open_safetensors(path)
    for name, (_, dtype) in reader.tensors.items():
        if dtype in tensor_file.NAMES:
            reader.read(name)


PIECES = [b"", b"0", b"-1", b"1e999", b"99999999999999999999", b"\xff" * 8, b"\0" * 8, b"{",
          b"[" * 60, b'"', b"NaN", b"null", b"\\ud800", b"\xed\xa0\x80", b"../",
          b"\x7f\xff\xff\xff", b"<p>", b"[SEG]", b"</p>",
          struct.pack("<Q", 1 << 40), struct.pack(">I", 1 << 31)]


def mutated(rng: random.Random, content: bytes) -> bytes:
    """One to four changes: bits, pieces put in or in place of others, parts cut or repeated."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.choice((1, 2, 4, 8, 64)))
        kind = rng.randrange(6)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at:end] = rng.choice(PIECES)
        elif kind == 2:
            content[at:at] = rng.choice(PIECES)
        elif kind == 3:
            del content[at:end]
        elif kind == 4:
            content[at:at] = content[at:end] * rng.choice((1, 2, 50))
        elif rng.random() < 0.3:
            del content[at:]
    return bytes(content)


def main() -> None:
    target, seed, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    make, read = TARGETS[target]
    good, results, failed = make(), collections.Counter(), 0
    with tempfile.TemporaryDirectory() as scratch:
        os.mkdir(f"{scratch}/good")
        with contextlib.suppress(RecordError):  # some items of the sources are bad on purpose
            read(good, pathlib.Path(scratch) / "good")
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends this process, whatever holds it
        for turn in range(number):
            content = mutated(random.Random(f"{target} {seed} {turn}"), good)
            folder = pathlib.Path(scratch) / str(turn)
            folder.mkdir()
            signal.alarm(SECONDS)
            try:
                read(content, folder)
                results["read"] += 1
            except KNOWN as error:
                results[type(error).__name__] += 1
            except Exception:
                failed += 1
                print(f"FAILED {target} {seed} {turn}: {content[:200]!r}", flush=True)
                traceback.print_exc(file=sys.stdout)
            signal.alarm(0)
    print(f"{target}: {dict(results)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

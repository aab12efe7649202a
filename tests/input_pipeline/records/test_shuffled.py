"""input_pipeline/records/shuffled.py: the files of TFDS, without what it keeps in memory."""

import errno
import io
import json
import os
import shutil
import tarfile
import time
import zipfile

import commands
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from prepared_sources import prepare
from repository import ROOT

from input_pipeline.records import builder, shuffled
from input_pipeline.records.prepared import open_split
from input_pipeline.records.record import DataError


@pytest.fixture
def source(tmp_path):
    """Twenty-five photos, each an item."""
    folder = tmp_path / "source"
    folder.mkdir()
    lines = []
    for number in range(25):
        Image.fromarray(np.full((8, 9 + number, 3), 7 * number, np.uint8)).save(
            folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "id": f"photo {number}"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if "record" in file.name}


@pytest.mark.parametrize("shards", [1, 4])
def test_files_are_those_of_tfds(source, tmp_path, monkeypatch, shards):
    monkeypatch.setattr(shuffled.shard_utils.ShardConfig, "get_number_shards",
                        lambda self, size, number: shards)
    ours = prepare("jsonl/records", source, tmp_path / "ours")
    monkeypatch.setattr(builder.Prepared, "_generate_splits",
                        tfds.core.GeneratorBasedBuilder._generate_splits)
    theirs = prepare("jsonl/records", source, tmp_path / "theirs")
    assert files_of(ours.data_path) == files_of(theirs.data_path)
    assert len(files_of(ours.data_path)) == shards
    assert {name: info.to_proto() for name, info in ours.info.splits.items()} == {
        name: info.to_proto() for name, info in theirs.info.splits.items()}


def test_a_full_disk_is_named_and_nothing_stays(source, tmp_path, monkeypatch):
    class Full(io.RawIOBase):
        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shuffled.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(DataError, match=rf"{tmp_path}/data/.*: cannot be written: No space left"):
        prepare("jsonl/records", source, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*2.0.0*"))


def test_keys_of_one_hash_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shuffled.hashing.Hasher, "hash_key", lambda *_: 5)
    with pytest.raises(DataError, match="two records have one hash"):
        prepare("jsonl/records", source, tmp_path / "data")


GIGABYTES, MEMORY, SIDE = 6, 2 << 30, 2000
PREPARE = """
import resource, sys
from input_pipeline.records import builder
from input_pipeline.datasets import open_dataset
name, source, data_dir = sys.argv[1:]
builder.prepare(open_dataset(name, source), data_dir)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
"""


def start(name, source, data_dir):
    return commands.start(commands.CODE, PREPARE, name, source, data_dir,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})


def photos():
    """(name, content) of GIGABYTES of photos, 12 MB each and all different."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    for number in range((GIGABYTES << 30) // noise.size + 1):
        content = io.BytesIO()
        Image.fromarray(np.roll(noise, number, axis=0)).save(content, "PNG", compress_level=0)
        yield f"{number}.png", content.getvalue()


def line(name):
    return json.dumps({"image": name, "id": name}) + "\n"


def make_folder(root):
    with (root / "manifest.jsonl").open("w") as lines:
        for name, content in photos():
            (root / name).write_bytes(content)
            lines.write(line(name))
    return "jsonl/records", root


def make_zip(root):
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        lines = []
        for name, content in photos():
            archive.writestr(name, content)
            lines.append(line(name))
        archive.writestr("manifest.jsonl", "".join(lines))
    return "jsonl/records", root / "photos.zip"


def make_tar(root):
    with tarfile.open(root / "photos.tar", "w") as archive:
        lines = []
        for name, content in [*photos(), ("manifest.jsonl", None)]:
            content = "".join(lines).encode() if content is None else content
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
            lines.append(line(name))
    return "jsonl/records", root / "photos.tar"


def make_parquet(root):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("img_id", pa.string()), ("image", image), ("mask", image),
                        ("width", pa.int64()), ("height", pa.int64()), ("label", pa.int64())])
    (root / "data").mkdir()
    with pq.ParquetWriter(root / "data" / "train-00000-of-00001.parquet", schema,
                          compression="none") as writer:
        for name, content in photos():
            writer.write_table(pa.Table.from_pylist([{
                "img_id": name, "image": {"bytes": content, "path": name}, "mask": None,
                "width": SIDE, "height": SIDE, "label": 0}], schema))
    return "sid_set/parquet", root


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_folder, make_zip, make_tar, make_parquet])
def test_six_gigabytes_under_two_of_memory(make, tmp_path, capsys):
    """Prepared, killed and prepared again (folders), and read; seconds beside those of a copy."""
    (tmp_path / "source").mkdir()
    name, source = make(tmp_path / "source")
    if make is make_folder:
        killed = start(name, source, tmp_path / "data")
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and not (
                killed.log.exists() and "writing train" in killed.log.read_text()):
            time.sleep(0.1)
        killed.kill()
        killed.wait()
        unfinished, = (tmp_path / "data").glob("*/*/incomplete.*")
        assert not list((tmp_path / "data").rglob("dataset_info.json")), unfinished
    began = time.monotonic()
    out, log = (done := start(name, source, tmp_path / "data")).communicate()
    seconds = time.monotonic() - began
    assert done.returncode == 0, log[-3000:]
    peak = int(out.split()[-1])
    split = open_split(tmp_path / "data", "train")
    paths = [path for path in (tmp_path / "data").rglob("*array_record*")]
    began = time.monotonic()
    for path in paths:
        shutil.copyfile(path, tmp_path / "copy")
    copied = time.monotonic() - began
    with capsys.disabled():
        print(f"\n{make.__name__}: {len(split)} records, {len(paths)} files, peak "
              f"{peak / 2**30:.2f} GiB, {seconds:.0f} s; copying them {copied:.0f} s")
    assert peak < MEMORY
    assert sum(path.stat().st_size for path in paths) > GIGABYTES << 30
    order = sorted((f"train_{number}.png" for number in range(len(split))),
                   key=shuffled.hashing.Hasher("train").hash_key)
    for place in (0, 1, len(split) // 2, -1):
        record = split[place]
        assert record.image[:4] == b"\x89PNG"
        if make is not make_parquet:
            assert record.id == order[place]
    shutil.rmtree(tmp_path)  # pytest would keep 18 GB of each

"""SID-Set from folders, archives and parquet files: masks, descriptions, counted defects."""

import hashlib
import io
import pickle
import sys

import numpy as np
import pytest
from fake_folders import BROKEN, FORMS, picture, write_tree, zip_tree
from fake_sid_set import KINDS, MASKS, encode_mask, make_folders, make_parquet, mask_array
from PIL import Image
from prepared_sources import prepare, printed_by_the_tool, write_times

from input_pipeline.datasets import open_dataset
from input_pipeline.datasets.checks import fit_mask
from input_pipeline.photos.regions import png_to_grey, png_to_mask
from input_pipeline.records import manifest
from input_pipeline.records.dataset import Notes
from input_pipeline.records.prepared import open_split
from input_pipeline.records.record import DataError, RecordError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    made = make_folders(root / "source")
    return root, made, prepare("sid_set/folders", root / "source", root / "data")


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    pytest.importorskip("pyarrow")
    root = tmp_path_factory.mktemp("parquet")
    made = make_parquet(root / "source")
    return root, made, prepare("sid_set/parquet", root / "source", root / "data")


def check_record(record, kind, content, name):
    """Every field that both layouts have."""
    assert record.image == content and record.label == KINDS.index(kind)
    assert record.group_id == hashlib.sha256(content).hexdigest()
    assert record.category == record.generator == record.question == ""
    assert record.dataset == "sid_set" and not record.regions
    expected = MASKS[name][1] if kind == "tampered" else None
    assert bool(record.has_masks) == (kind == "real" or expected is not None)
    if expected is None:
        assert record.union_mask == b""
    else:
        np.testing.assert_array_equal(png_to_mask(record.union_mask), expected)
        np.testing.assert_array_equal(record.graded(expected.shape), 255 * expected)
    assert record.heatmap == b""  # a mask without greys needs no second picture


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_record_of_the_folders_is_exact(folders, split):
    _, made, built = folders
    records = {r.file_name: r for r in open_split(built.data_path, split)}
    for kind, files in made[split].items():
        for name, content in files.items():
            record = records.pop(f"{split}/{kind}/{name}")
            check_record(record, kind, content, name)
            assert record.id == f"{split}_{kind}/{name}"
    assert not records


def test_descriptions_are_captions(folders):
    captions = {r.file_name.split("/", 1)[1]: r.caption
                for r in open_split(folders[2].data_path, "train") if r.caption}
    assert captions == {"real/plain.png": "A plain photo.", "tampered/ok.png": "Its left half.",
                        "full_synthetic/syn_0.png": "By a machine."}


def test_every_defect_of_the_folders_is_counted(folders):
    _, made, built = folders
    train = manifest.read_summary(built.data_path)["splits"]["train"]
    usable = sum(map(len, made["train"].values()))
    assert train["published"] == 210_000 and train["records"] == usable
    assert train["items"] == usable + len(BROKEN) + 1
    assert train["skipped"] == {"file missing": 1, "not an image file": 2, "unreadable image": 3}
    assert train["repaired"] == {"mask resized": 2}
    assert train["dropped"] == {"mask missing": 1, "unusable mask": 3}
    assert train["label"] == {"0": len(FORMS), "1": 3, "2": len(MASKS)}


def test_every_defect_is_named(folders):
    entries = {e["id"]: e for e in manifest.read_manifest(folders[2].data_path)
               if e["split"] == "train"}
    for name, (_, _, reason, is_dropped) in MASKS.items():
        notes = entries[f"tampered/{name}"]["notes"]
        assert [(n["kind"], n["reason"]) for n in notes] == (
            [("dropped" if is_dropped else "repaired", reason)] if reason else [])
    assert entries["tampered/turned.png"]["notes"][0]["detail"] == (
        "mask of 16x24 for an image of 24x16")
    assert entries["tampered/gone.png"]["reason"] == "file missing"


@pytest.mark.parametrize(("size", "fits"), [
    ((100, 67), True), ((2002, 1335), True), ((100, 70), False), ((667, 1001), False)])
def test_masks_of_the_same_proportions_fit(size, fits):
    content = encode_mask(mask_array(size=size))
    if not fits:
        with pytest.raises(RecordError, match="unusable mask"):
            fit_mask(content, (667, 1001), Notes())
        return
    mask = png_to_mask(fit_mask(content, (667, 1001), notes := Notes()))
    assert mask.shape == (667, 1001) and abs(mask.mean() - 0.5) < 0.01
    assert [note["reason"] for note in notes.entries] == ["mask resized"]


@pytest.mark.parametrize("config", ["folders", "parquet"])
def test_second_run_changes_nothing(config, request):
    root, _, built = request.getfixturevalue(config)
    before = write_times(built.data_path)
    again = prepare(f"sid_set/{config}", root / "source", root / "data")
    assert write_times(again.data_path) == before


@pytest.mark.parametrize("start", ["", "SID_Set/"])
def test_an_archive_reads_like_the_folder(folders, tmp_path, start):
    source = folders[0] / "source"
    files = {str(path.relative_to(source)): path.read_bytes()
             for path in source.rglob("*") if path.is_file()}
    hostile = [("../train/real/out.png", picture(1), False),
               (f"{start}train/real/link.png", b"/etc/passwd", True)]
    packed = zip_tree(tmp_path / "all.zip", files, start=start, hostile=hostile)
    first, second = (open_dataset("sid_set/folders", str(p)) for p in (source, packed))
    for items, others in zip(first.splits().values(), second.splits().values(), strict=True):
        assert [item.id for item in items] == [item.id for item in others]
        for item, other in zip(items, others, strict=True):
            if "gone" not in item.id and not item.file.endswith((".db", "_Store", "bad_empty.jpg")):
                record = second.read(other, Notes())
                assert vars(record) | {"file_name": ""} == vars(
                    first.read(item, Notes())) | {"file_name": ""}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_record_of_the_parquet_files_is_exact(parquet, split):
    _, made, built = parquet
    records = {r.id.removeprefix(f"{split}_"): r
               for r in open_split(built.data_path, split)}
    assert records.keys() == made[split].keys()
    for key, (kind, content) in made[split].items():
        name = records[key].file_name
        assert key == f"{kind}_{name[:-4]}"
        check_record(records[key], kind, content, name)


def test_every_defect_of_the_parquet_files_is_counted(parquet):
    _, made, built = parquet
    train = manifest.read_summary(built.data_path)["splits"]["train"]
    assert train["published"] == 210_000 and train["items"] == len(made["train"]) + 3
    assert train["skipped"] == {"unknown label": 1, "file missing": 1, "duplicate id": 1}
    assert train["repaired"] == {"mask resized": 2, "size contradicts the image": 1}
    assert train["dropped"] == {"mask missing": 1, "unusable mask": 3}
    (entry,) = (e for e in manifest.read_manifest(built.data_path)
                if e["status"] == "skipped" and e["reason"] == "unknown label")
    assert entry["detail"] == "3" and "-00001-of-00002.parquet#" in entry["file"]


def test_rows_are_read_in_any_order_by_any_worker(parquet):
    dataset = open_dataset("sid_set/parquet", str(parquet[0] / "source"))
    items = dataset.splits()["validation"]
    expected = [dataset.read(item, Notes()) for item in items]
    copy = pickle.loads(pickle.dumps(dataset))
    assert [copy.read(item, Notes()) for item in items[::-1]] == expected[::-1]


def test_parquet_files_may_have_descriptions(tmp_path):
    pytest.importorskip("pyarrow")
    made = make_parquet(tmp_path, descriptions=True)
    dataset = open_dataset("sid_set/parquet", str(tmp_path))
    items = dataset.splits()["validation"]
    assert [dataset.read(item, Notes()).caption for item in items] == [
        f"About {key}." for key in made["validation"]]


def test_broken_parquet_files_are_named(tmp_path):
    pytest.importorskip("pyarrow")
    make_parquet(tmp_path)
    dataset = open_dataset("sid_set/parquet", str(tmp_path))
    item = dataset.splits()["train"][0]
    path = tmp_path / "data" / "train-00000-of-00002.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 900 + whole[904:])
    with pytest.raises(RecordError, match="file unreadable"):
        dataset.read(item, Notes())
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="train-00000-of-00002.parquet: not a readable parquet"):
        open_dataset("sid_set/parquet", str(tmp_path)).splits()
    path.rename(path.with_name("part-0.parquet"))
    with pytest.raises(DataError, match="its name tells no split"):
        open_dataset("sid_set/parquet", str(tmp_path)).splits()


def test_parquet_files_without_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "source").mkdir()
    table = {"img_id": [""], "image": [None], "label": [0]}
    parquet.write_table(pytest.importorskip("pyarrow").table(table).slice(1),
                        tmp_path / "source/train-0.parquet")
    with pytest.raises(DataError, match=f"{tmp_path}/source: it holds no items"):
        prepare("sid_set/parquet", tmp_path / "source", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_without_pyarrow_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        open_dataset("sid_set/parquet", str(tmp_path))
    open_dataset("sid_set/folders", str(tmp_path))


def test_nothing_there_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    for config in ("folders", "parquet"):
        with pytest.raises(DataError, match="found no"):
            open_dataset(f"sid_set/{config}", str(tmp_path)).splits()
    packed = zip_tree(tmp_path / "a.zip", {"a.parquet": b""})
    with pytest.raises(DataError, match="unpack it first"):
        open_dataset("sid_set/parquet", str(packed))
    write_tree(tmp_path, {"text_label_images/train/description/real_GT.json": b"[]",
                          "train/real/a.png": picture(1)})
    with pytest.raises(DataError, match="real_GT.json: expected a JSON object"):
        open_dataset("sid_set/folders", str(tmp_path)).splits()


@pytest.mark.parametrize("config", ["folders", "parquet"])
def test_tool(config, tmp_path, request):
    source = request.getfixturevalue(config)[0] / "source"
    assert "mask resized" in printed_by_the_tool(f"sid_set/{config}", source, tmp_path)


def test_grey_pixels_of_a_mask_are_decided_by_the_configs_name(tmp_path):
    mask = io.BytesIO()
    values = np.zeros((30, 40), np.uint8)
    values[:10], values[10:20] = 255, 200
    Image.fromarray(values).save(mask, "PNG")
    split = tmp_path / "source/train"
    for folder, name, data in (("tampered", "a.png", picture(5, size=(40, 30))),
                               ("masks", "a_mask.png", mask.getvalue())):
        (split / folder).mkdir(parents=True)
        (split / folder / name).write_bytes(data)
    for config, rows in (("folders", 20), ("folders_white", 10)):
        built = prepare(f"sid_set/{config}", tmp_path / "source", tmp_path / "data")
        record, = open_split(built.data_path, "train")
        assert png_to_mask(record.union_mask).sum() == 40 * rows
        line, = (built.data_path / "train-manifest.jsonl").read_text().splitlines()
        assert "grey" in line
        # Targets of training are the greys themselves.
        np.testing.assert_array_equal(png_to_grey(record.heatmap), values)
        np.testing.assert_array_equal(record.graded((30, 40)), values)

"""Sources that are damaged, loop, lie or change: refused, bounded or named."""

import io
import json
import multiprocessing
import os
import tarfile
import zipfile

import bucket_server
import pytest
from fake_folders import make_fake, picture, write_tree

from input_pipeline.datasets import open_dataset
from input_pipeline.photos import regions
from input_pipeline.photos.images import ImageError, read_image
from input_pipeline.records import builder, manifest
from input_pipeline.records.prepared import find_version, open_split
from input_pipeline.records.record import DataError, RecordError
from input_pipeline.records.tree import Tree

server, bucket = bucket_server.server, bucket_server.bucket


def pack(files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


FILES = {f"{number}.png": picture(number) for number in range(6)}


@pytest.mark.parametrize("far", [1e4, 1e9, 1e300])
def test_a_point_far_away_costs_its_region_and_no_memory(far):
    polygon = [0, 0, far, 0, far, far, 0, far]
    for rasterise in (regions.polygons_to_mask, regions.polygons_to_bits):
        with pytest.raises(regions.RegionError, match="far outside the 24x16 image"):
            rasterise([polygon], 16, 24)
    assert regions.polygons_to_mask([[-100, -100, 200, -100, 200, 200, -100, 200]], 16, 24).all()


@pytest.mark.parametrize("damage", ["flip", "cut", "cut inside a header", "two in one"])
def test_a_tar_that_is_not_whole_is_refused(tmp_path, damage):
    content = pack(FILES)
    size = 512 + -(-len(FILES["0.png"]) // 512) * 512  # of one header and its file
    damaged = bytearray(content)
    damaged[3 * size + 5] ^= 1
    made = {"flip": bytes(damaged), "cut": content[:3 * size], "two in one": content + content,
            "cut inside a header": content[:3 * size + 100]}[damage]
    (tmp_path / "a.tar").write_bytes(made)
    with pytest.raises(DataError, match=r"a\.tar: not a readable archive"):
        Tree(tmp_path / "a.tar").names()
    (tmp_path / "b.tar").write_bytes(content)
    assert Tree(tmp_path / "b.tar").names() == sorted(FILES)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"0"])
def test_a_tar_header_that_claims_a_terabyte(tmp_path, kind):
    head = bytearray(512)
    head[0:5], head[100:108], head[156:157] = b"a.png", b"0000644\0", kind
    head[124:136], head[257:265] = b"\x80" + (1 << 40).to_bytes(11, "big"), b"ustar\x0000"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    (tmp_path / "a.tar").write_bytes(bytes(head) + bytes(10240))
    with pytest.raises(DataError, match="not a readable archive"):
        Tree(tmp_path / "a.tar").names()


def test_photos_have_one_limit_wherever_they_are(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "folder" / "a.png", "wb") as file:
        file.truncate(1 << 43)  # takes no room
    with pytest.raises(RecordError, match="8796093022208 bytes, limit 268435456"):
        Tree(tmp_path / "folder").read("a.png")
    (tmp_path / "a.tar").write_bytes(pack({"a.png": bytes(500)}))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(500))
    for name in ("a.tar", "a.zip"):
        tree = Tree(tmp_path / name)
        assert len(tree.read("a.png")) == 500
        with pytest.raises(RecordError, match="500 bytes, limit 499"):
            tree.read("a.png", 499)


def test_a_row_of_parquet_is_decoded_alone(tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from input_pipeline.datasets import parquet
    cells = [b"a", b"b" * 5000, b"c", b"d"]
    pq.write_table(pa.table({"cell": cells}), tmp_path / "a.parquet", row_group_size=3)
    monkeypatch.setattr(parquet, "LARGEST", 1000)
    rows = parquet.Rows(str(tmp_path))
    listed = [place[:2] for place in rows.index("a.parquet", ["no"])]
    assert listed == [(0, 0), (0, 1), (0, 2), (1, 0)]
    for group, row, wanted in ((0, 0, b"a"), (0, 2, b"c"), (0, 0, b"a"), (1, 0, b"d"),
                               (0, 2, b"c")):
        assert rows.read("a.parquet", group, row) == {"cell": wanted}
    with pytest.raises(RecordError, match="a row of 50.. bytes, limit 1000"):
        rows.read("a.parquet", 0, 1)
    assert rows.read("a.parquet", 0, 2) == {"cell": b"c"}
    with pytest.raises(RecordError, match="file unreadable"):
        rows.read("a.parquet", 1, 7)


def test_links_that_lead_round_are_followed_once(tmp_path):
    write_tree(tmp_path / "tree", {f"a/{name}": content for name, content in FILES.items()})
    write_tree(tmp_path / "elsewhere", {"far.png": picture(9)})
    for number in range(2):
        (tmp_path / "tree" / "a" / f"round{number}").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "out").symlink_to(tmp_path / "elsewhere")
    names = Tree(tmp_path / "tree").names()
    assert names == sorted([*(f"a/{name}" for name in FILES), "out/far.png"])


def test_folders_that_link_to_each_other_list_every_photo_once_by_each_way(tmp_path):
    write_tree(tmp_path / "tree", {"a/x.png": picture(1), "b/y.png": picture(2)})
    (tmp_path / "tree/a/l").symlink_to("../b")
    (tmp_path / "tree/b/l").symlink_to("../a")
    (tmp_path / "tree/b/up").symlink_to("../..")
    assert Tree(tmp_path / "tree").names() == ["a/l/y.png", "a/x.png", "b/l/x.png", "b/y.png"]


def test_sets_may_share_their_photos_by_links(tmp_path):
    write_tree(tmp_path, {"laion/0_real/a.png": picture(1), "ldm/1_fake/.b.png": picture(2)})
    for name in ("ldm", "glide"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "0_real").symlink_to("../laion/0_real")
    assert Tree(tmp_path).names() == [
        "glide/0_real/a.png", "laion/0_real/a.png", "ldm/0_real/a.png", "ldm/1_fake/.b.png"]
    assert Tree(tmp_path).names("ldm") == ["ldm/0_real/a.png", "ldm/1_fake/.b.png"]
    assert Tree(tmp_path).names("gone") == []


def test_a_folder_in_a_bucket(bucket):
    for name in ("b.png", "in/a.png", "in/.cache/c.png"):
        (bucket / "set" / name).write_bytes(picture(1))
    tree = Tree(bucket / "set")
    assert tree.names() == ["b.png", "in/.cache/c.png", "in/a.png"]
    assert tree.names("in") == ["in/.cache/c.png", "in/a.png"] and tree.names("gone") == []
    assert tree.read("in/.cache/c.png") == picture(1)


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(RecordError, match="not a plain file"):
        Tree(tmp_path).read("a.png")


def test_a_damaged_entry_of_any_compression_is_one_unreadable_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", bytes(5000) + os.urandom(5000))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[60:3000] = os.urandom(2940)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(RecordError, match="file unreadable"):
        Tree(tmp_path / "a.zip").read("a.png")


def test_no_other_program_reads_an_image():
    with pytest.raises(ImageError, match="not an image"):
        read_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")


def jsonl(tmp_path, **fields):
    write_tree(tmp_path / "source", {"a.png": picture(1), "manifest.jsonl": json.dumps(
        {"image": "a.png", "label": "synthetic"} | fields).encode()})
    return builder.prepare(open_dataset("jsonl", str(tmp_path / "source")), tmp_path / "data")


@pytest.mark.parametrize("fields, message", [
    ({"split": "_"}, "line 1: field 'split'"), ({"split": "a" * 300}, "line 1: field 'split'"),
    ({"regions": [{"box": [1, 1, 10 ** 400, 9]}]}, "region 0: field 'box'"),
    ({"regions": [{"polygons": [[1, 1, 10 ** 400, 9, 3, 3]]}]}, "region 0: field 'polygons'"),
    ({"caption": "a <image> of it"}, "1 reserved word in a text"),
    ({"caption": "abcd", "regions": [{"start": 2, "end": 2, "box": [1, 1, 9, 9]}]},
     "1 misplaced phrase")])
def test_what_no_training_could_use_is_refused_when_it_is_prepared(tmp_path, fields, message):
    with pytest.raises(DataError, match=message):
        jsonl(tmp_path, **fields)


def test_other_photos_of_the_same_names_are_other_content(tmp_path):
    make_fake(tmp_path / "source", "progan")
    summaries = []
    for number in range(2):
        made = builder.prepare(open_dataset("progan", str(tmp_path / "source")),
                               tmp_path / f"data{number}")
        summaries.append(manifest.read_summary(made.data_path))
        for shade, path in enumerate(sorted((tmp_path / "source").rglob("*.png"))):
            path.write_bytes(picture(100 + shade))
    assert summaries[0]["digest"] == summaries[1]["digest"]
    assert summaries[0]["content"] != summaries[1]["content"]


def test_an_image_with_two_labels_is_counted(tmp_path):
    files = {"progan_train/car/0_real/a.png": picture(1), "progan_train/car/1_fake/b.png":
             picture(1), "progan_train/car/1_fake/c.png": picture(2)}
    write_tree(tmp_path / "source", files)
    made = builder.prepare(open_dataset("progan", str(tmp_path / "source")), tmp_path / "data")
    assert manifest.read_summary(made.data_path)["images_with_several_labels"] == 1


@pytest.fixture
def prepared(tmp_path):
    make_fake(tmp_path / "source", "progan")
    builder.prepare(open_dataset("progan", str(tmp_path / "source")), tmp_path / "data")
    return find_version(tmp_path / "data")


def test_a_missing_file_of_a_prepared_set_is_named(prepared):
    file = next(prepared.glob("*train.array_record*"))
    file.unlink()
    with pytest.raises(DataError, match=f"{file.name}: not there; 1 of 1 files of split train"):
        open_split(prepared, "train")


def test_a_cut_file_costs_records_and_not_the_run(prepared):
    file = next(prepared.glob("*train.array_record*"))
    file.write_bytes(file.read_bytes()[:len(file.read_bytes()) // 2])
    source = open_split(prepared, "train")
    for index in range(len(source)):
        with pytest.raises(RecordError, match=f"unreadable record: {index}"):
            source[index]


@pytest.mark.parametrize("split", ["train[5:2]", "train[90:]", "nothing"])
def test_a_slice_of_nothing(prepared, split):
    with pytest.raises(DataError, match=str(prepared)):
        open_split(prepared, split)


def hold(folder, started, finish):
    with builder._alone(folder):
        started.set()
        finish.wait()


def test_two_processes_do_not_prepare_the_same_set(prepared, tmp_path):
    context = multiprocessing.get_context("spawn")
    started, finish = context.Event(), context.Event()
    other = context.Process(target=hold, args=(prepared, started, finish))
    other.start()
    try:
        assert started.wait(60)
        with pytest.raises(DataError, match="another process is preparing it"):
            builder.prepare(open_dataset("progan", str(tmp_path / "source")), tmp_path / "data")
    finally:
        finish.set()
        other.join(60)
    assert other.exitcode == 0 and list(prepared.parent.iterdir()) == [prepared]

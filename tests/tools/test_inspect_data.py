"""Pages of prepared data: all splits of all data sets, whole, escaped, deterministic."""

import base64
import io
import json
import pathlib
import re
import shutil

import browser
import commands
import hostile_text
import pytest
from fake_folders import write_tree
from PIL import Image
from sheet_pages import EVIL, FILES, KINDS, make_source, read_page

from input_pipeline.datasets import ALL, open_dataset
from input_pipeline.errors import UserError
from input_pipeline.records import builder, manifest
from input_pipeline.records.prepared import open_split
from tools.inspect_data import __main__ as inspect_data, survey
from tools.inspect_data.pages import Request

chromium = browser.chromium


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for kind in ALL:
        builder.prepare(make_source(kind, root / f"source_{kind}"), root / "data")
    return root / "data"


@pytest.fixture(scope="module")
def sheet(data, tmp_path_factory):
    """(folder of the pages, the pages) of everything."""
    folder = tmp_path_factory.mktemp("sheet") / "new" / "folder"
    return folder, inspect_data.write_pages(data, folder, Request(number=1000))


@pytest.fixture(scope="module")
def own(data):
    return data / "jsonl" / "records" / builder.VERSION


def write(folder, output, split=None, **changes):
    """{split: page} of one data set."""
    made = inspect_data.write_pages(folder, output, Request(**changes), split=split)
    return {page.split: read_page(output / page.file) for page in made}


def shown(page):
    """The records of a page by their number in the split, in order."""
    return [item["record"] for item in page.items]


def test_every_split_of_every_data_set_has_a_page_that_shows_each_record_once(data, sheet):
    folder, pages = sheet
    assert {page.folder.parent.parent.name for page in pages} == set(ALL)
    index = read_page(folder / "index.html")
    assert [a["href"] for a in index.all("a")] == [page.file for page in pages]
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["index.html", *(page.file for page in pages)])
    for made in pages:
        source = open_split(made.folder, made.split)
        page = read_page(folder / made.file)
        assert sorted(shown(page)) == list(range(len(source)))
        for item in page.items:
            assert item["id"] == source[item["record"]].id
            assert item["problems"] == [] and page.scripts[f"jpeg-{item['n']}"]
        assert made.problems == 0


def test_pages_need_nothing_beside_them(sheet):
    folder, pages = sheet
    for file in ["index.html", *(page.file for page in pages)]:
        page = read_page(folder / file)
        static = re.sub(r"<bdi>.*?</bdi>|^\{.*$", "", page.code, flags=re.MULTILINE)
        assert "://" not in static and "url(" not in static
        assert not {"link", "iframe"} & {tag for tag, _ in page.tags}
        for _, attributes in page.tags:
            for name in {"src", "href"} & set(attributes):
                target = attributes[name]
                assert re.match(r"data:image/(jpeg|webp);base64,|#", target) or (
                    folder / target).exists()
        assert len({a["id"] for _, a in page.tags if "id" in a}) == sum(
            "id" in a for _, a in page.tags)


def test_records_are_items_of_the_gallery(sheet):
    page = read_page(sheet[0] / "jsonl-records-train.html")
    items = {item["id"].removeprefix("train_"): item for item in page.items}
    assert items["two"]["reference"] == [
        ["A ", None], ["sun", 0], [" and a ", None], ["moon", 1], [".", None]]
    assert [(r["phrase"], r["detail"], r["kind"]) for r in items["two"]["truth"]] == [
        ("sun", "", ""), ("moon", "cheese", "physics")]
    assert {name: item["state"] for name, item in items.items()} == {
        "two": "42 % of the photo marked", "union": "50 % of the photo marked",
        "heat": "50 % of the photo marked", "plain": "no masks known",
        "clean": "checked, nothing marked", "mute": "56 % of the photo marked"}
    assert items["union"]["union"] and not items["union"]["truth"]
    assert items["clean"]["question"] == "Real or fake?" and not items["plain"]["marked"]
    assert items["heat"]["heat"]["words"].startswith("up to ")
    assert Image.open(io.BytesIO(base64.b64decode(items["heat"]["heat"]["jpeg"]))).size == (24, 16)
    assert [fact for fact in items["heat"]["facts"] if fact[0].startswith("score")] == [
        ["score, artifact", "1.00"], ["score, overall", "0.25"]]
    config = json.loads(page.scripts["config"])
    assert (config["truth"], config["reference"]) == ("Masks", "Caption")
    assert all(sort["key"] in items["two"]["keys"] for sort in config["sorts"])


def test_texts_are_escaped(sheet):
    page = read_page(sheet[0] / "jsonl-records-test.html")
    assert "<script>alert" not in page.code
    assert not any("onload" in attributes for _, attributes in page.tags)
    [item] = page.items
    assert item["reference"][1] == [EVIL, 0] and item["truth"][0]["detail"] == EVIL
    assert page.texts.count(EVIL) >= 2  # the category and the generator


def test_markup_in_every_field_is_text(chromium, tmp_path):
    """Of the records, of the summary and of the manifest; with the policy taken away."""
    markup, seen = hostile_text.MARKUP.replace("HOST", "http://localhost:9"), set()
    fixed = {"image", "label", "split", "polygons", "union_mask", "heatmap", "box"}
    lines = []
    for record in KINDS:
        kept = {name: value for name, value in record.items() if name in fixed}
        lines.append(json.dumps(hostile_text.hostile(record, markup, seen) | kept))
    files = FILES | {"manifest.jsonl": "\n".join(lines).encode()}
    write_tree(tmp_path / "source", files)
    folder = pathlib.Path(builder.prepare(open_dataset("jsonl", str(tmp_path / "source")),
                                          tmp_path / "data").data_path)
    for path in (folder / manifest.SUMMARY, *folder.glob(f"*-{manifest.MANIFEST}*")):
        changed = [json.dumps(_but_splits(json.loads(line), markup, seen)) for line in (
            [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines())]
        path.write_text("\n".join(changed))
    assert {".caption", ".regions[].phrase", ".notes[].detail", ".dataset", ".source"} <= seen
    chromium.errors.clear()
    chromium.requests.clear()
    made = inspect_data.write_pages(folder, tmp_path / "out", Request(number=50))
    for path in [tmp_path / "out/index.html", *(tmp_path / "out" / page.file for page in made)]:
        text = path.read_text(encoding="utf-8").replace("Content-Security-Policy", "none")
        path.write_text(text, encoding="utf-8")
        chromium.open(path.as_uri())
        cards = chromium.run("document.querySelectorAll('.card h3 a').length")
        assert cards == {"index.html": 0, made[0].file: 6, made[1].file: 1}[path.name]
        for number in range(cards + 1):
            chromium.run("""for (const e of document.querySelectorAll('*'))
                e.dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))""")
            assert chromium.run("window.ran") is None
            assert chromium.run("document.getElementById('evil')") is None
            chromium.run(f"document.querySelectorAll('.card h3 a')[{number}]?.click()")
        shown = chromium.run("document.documentElement.textContent")
        assert ("{{ 7*7 }}" in shown) == bool(cards)
    assert chromium.errors == []
    assert {url.partition(":")[0] for url in chromium.requests} <= {"file", "data", "blob"}


def _but_splits(entry: dict, markup: str, seen: set) -> dict:
    """A line with markup in its texts, but for what tells to which split and kind it belongs."""
    kept = {name: entry[name] for name in ("split", "status", "splits") if name in entry}
    return hostile_text.hostile(entry, markup, seen) | kept


def test_numbers_of_summary_and_manifest_are_told(data, sheet):
    folder, pages = sheet
    for made in pages:
        counts = manifest.read_summary(made.folder)["splits"][made.split]
        texts = read_page(folder / made.file).texts
        for kind in ("skipped", "repaired", "dropped"):
            for reason, number in counts[kind].items():
                assert texts[texts.index(reason) + 1] == f"{number:,}"
        if counts["published"] is not None:
            assert texts[texts.index("published") + 1] == f"{counts['published']:,}"
    assert "gone.png" in read_page(folder / "jsonl-records-test.html").texts
    leaked = [page for page in pages if page.name == "fakeclue/published"]
    assert [page.shared for page in leaked] == [2, 2]


def test_the_same_seed_gives_the_same_pages(own, tmp_path):
    first, again, other = (write(own, tmp_path / name, number=3, seed=seed)
                           for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first["train"].code == again["train"].code
    assert len(set(shown(first["train"]))) == 3
    assert shown(first["train"]) != shown(other["train"])


def test_what_is_shown_can_be_chosen(own, tmp_path):
    records = [record.id for record in open_split(own, "train")]
    for pick, number, expected in (("largest_mask", 3, {"train_mute", "train_union", "train_heat"}),
                                   ("smallest_mask", 1, {"train_two"}),
                                   ("longest_text", 1, {"train_two"}),
                                   ("most_regions", 2, {"train_two", "train_mute"})):
        page = write(own, tmp_path, "train", pick=pick, number=number)["train"]
        assert {records[index] for index in shown(page)} == expected
    page = write(own, tmp_path, "train", label=2)["train"]
    assert {records[index] for index in shown(page)} == {"train_two", "train_mute"}
    assert "None fits." in " ".join(write(own, tmp_path, "test", label=0)["test"].texts)


@pytest.mark.parametrize("width", [320, 1280])
def test_records_are_shown_in_a_browser(chromium, sheet, width):
    chromium.errors.clear()
    chromium.view(width, phone=width < 500)
    chromium.open((sheet[0] / "jsonl-records-train.html").as_uri())
    cards = "Object.fromEntries([...document.querySelectorAll('.card')].map(c => " \
            "[c.querySelector('h3').textContent, [...c.querySelectorAll('figcaption b')]" \
            ".map(b => b.textContent)]))"
    assert chromium.run(cards) == {
        "train_two": ["Photo", "Masks"], "train_union": ["Photo", "Masks"],
        "train_heat": ["Photo", "Masks", "Heat map"], "train_plain": ["Photo"],
        "train_clean": ["Photo"], "train_mute": ["Photo", "Masks"]}
    assert chromium.run("document.documentElement.scrollWidth") <= width
    chromium.run("location.hash = '#/photo/train_two'")
    chromium.wait("document.querySelector('#photo h1')")
    shown = chromium.run("document.querySelector('#photo').textContent")
    for words in ("cheese", "physics, 21 % of the photo", "a.png", "Record"):
        assert words in shown, words
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.errors == []


def test_statistics_need_no_script(sheet):
    page = read_page(sheet[0] / "jsonl-records-train.html")
    assert "class" not in page.all("html")[0] and len(page.all("svg")) >= 4
    assert any("which this browser does not run" in text for text in page.texts)


def test_a_data_set_without_its_account_is_shown(own, tmp_path):
    data = tmp_path / "1.0.0"
    data.mkdir()
    for path in own.iterdir():
        if "manifest" not in path.name and path.name != manifest.SUMMARY:
            shutil.copyfile(path, data / path.name)
    page = write(data, tmp_path / "sheet", "train")["train"]
    assert len(shown(page)) == 6 and "no readable summary.json" in page.code
    (data / manifest.SUMMARY).write_text('{"splits": {"train": {"records": 3}}}')
    assert survey.account(data).counts("train") == {}
    (data / "train-manifest.jsonl").write_text('{"split": "train"}\n')
    with pytest.raises(UserError, match="line 1: id is missing"):
        write(data, tmp_path / "sheet")


def test_what_cannot_be_shown_is_said_in_a_sentence(data, own, tmp_path):
    with pytest.raises(UserError, match="no split 'night' in .*; available: test, train"):
        write(own, tmp_path, "night")
    with pytest.raises(UserError, match="nowhere: no prepared data set here"):
        write(data / "nowhere", tmp_path)
    with pytest.raises(UserError, match="is a file, not a folder"):
        write(own, next(own.iterdir()))
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="features.json: not found"):
        write(tmp_path, tmp_path / "sheet")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [(["--number", "0"], 1, "error: --number: at least 1, got 0\n"),
     (["--split", "train", "--stats_limit", "4", "--label", "tampered"], 0, None)])
def test_the_command(own, tmp_path, flags, code, message):
    run = commands.run_tool("tools.inspect_data", "--data_dir", own, "--output",
                            tmp_path / "sheet", *flags)
    assert run.returncode == code
    if code:
        assert run.stderr == message and not (tmp_path / "sheet").exists()
    else:
        assert re.fullmatch(r".*index\.html: [0-2] records shown of 1 split\n", run.stdout)
        assert "4/4" in run.stderr  # the progress bar
        page = read_page(tmp_path / "sheet" / "jsonl-records-train.html")
        assert "4 looked at, drawn at random" in page.texts

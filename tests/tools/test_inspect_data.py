"""Pages of prepared data: all splits of all data sets, whole, escaped, coloured, deterministic."""

import re
import subprocess
import sys

import pytest
from sheet_pages import EVIL, Page, make_source

from input_pipeline.datasets import ALL
from input_pipeline.errors import UserError
from input_pipeline.records import builder, manifest
from input_pipeline.records.prepared import open_split
from legion_jax.display import overlay
from tools.inspect_data import __main__ as inspect_data, survey
from tools.inspect_data.pages import Request


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
    return {page.split: Page(output / page.file) for page in made}


def shown(page):
    return [int(a["data-index"]) for a in page.all("article", **{"class": "card"})]


def test_every_split_of_every_data_set_has_a_page_that_shows_each_record_once(data, sheet):
    folder, pages = sheet
    assert {page.folder.parent.parent.name for page in pages} == set(ALL)
    index = Page(folder / "index.html")
    assert [a["href"] for a in index.all("a")] == [page.file for page in pages]
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["index.html", *(page.file for page in pages)])
    for made in pages:
        source = open_split(made.folder, made.split)
        page = Page(folder / made.file)
        assert sorted(shown(page)) == list(range(len(source)))
        for record in source:
            assert record.id in page.texts
        assert not page.all("ul", **{"class": "wrong"}) and made.problems == 0


def test_pages_need_nothing_beside_them(sheet):
    folder, pages = sheet
    for file in ["index.html", *(page.file for page in pages)]:
        page = Page(folder / file)
        assert "://" not in re.sub(r"<bdi>.*?</bdi>", "", page.code) and "url(" not in page.code
        assert not {"link", "iframe"} & {tag for tag, _ in page.tags}
        for _, attributes in page.tags:
            for name in {"src", "href"} & set(attributes):
                target = attributes[name]
                assert re.match(r"data:image/(jpeg|webp);base64,|#", target) or (
                    folder / target).exists()
        assert len({a["id"] for _, a in page.tags if "id" in a}) == sum(
            "id" in a for _, a in page.tags)


def test_phrases_have_the_colours_of_their_masks(sheet):
    page = Page(sheet[0] / "jsonl-records-train.html")
    tones = ["--tone:{} {} {}".format(*overlay.colour(k)) for k in (0, 1)]
    assert page.marks == [("sun", tones[0]), ("moon", tones[1])]
    assert [a["style"].split(";")[0] for a in page.all("b", **{"class": "tag"})].count(
        tones[0]) == 2  # of `two` and of `mute`
    for words in ("cheese", "no phrase", "no caption", "no masks known", "Real or fake?",
                  "checked, nothing marked", "physics · 21 %", "all artifacts together · 50 %",
                  "50 % of the photo marked", "42 % of the photo marked", "0.25", "1.00"):
        assert words in page.texts, words
    assert any(text.startswith("heat map: up to ") for text in page.texts)


def test_texts_are_escaped(sheet):
    page = Page(sheet[0] / "jsonl-records-test.html")
    assert len(page.all("script")) == 2 and "<script>alert" not in page.code
    assert "onload" not in page.code.replace("&#34;onload=&#34;", "")
    assert page.marks[0][0] == EVIL and page.texts.count(EVIL) >= 9


def test_numbers_of_summary_and_manifest_are_told(data, sheet):
    folder, pages = sheet
    for made in pages:
        counts = manifest.read_summary(made.folder)["splits"][made.split]
        texts = Page(folder / made.file).texts
        for kind in ("skipped", "repaired", "dropped"):
            for reason, number in counts[kind].items():
                assert texts[texts.index(reason) + 1] == f"{number:,}"
        if counts["published"] is not None:
            assert texts[texts.index("published") + 1] == f"{counts['published']:,}"
    assert "gone.png" in Page(folder / "jsonl-records-test.html").texts
    leaked = [page for page in pages if page.name == "fakeclue/published"]
    assert [page.shared for page in leaked] == [2, 2]


def test_the_same_seed_gives_the_same_pages(own, tmp_path):
    first, again, other = (write(own, tmp_path / name, number=3, seed=seed)
                           for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first["train"].code == again["train"].code
    assert len(set(shown(first["train"]))) == 3
    assert shown(first["train"]) != shown(other["train"])


def test_what_is_shown_can_be_chosen(own, tmp_path):
    records = [r.id for r in open_split(own, "train")]
    for pick, number, expected in (("largest_mask", 3, {"train_mute", "train_union", "train_heat"}),
                                   ("smallest_mask", 1, {"train_two"}),
                                   ("longest_text", 1, {"train_two"}),
                                   ("most_regions", 2, {"train_two", "train_mute"})):
        page = write(own, tmp_path, "train", pick=pick, number=number)["train"]
        assert {records[index] for index in shown(page)} == expected
    page = write(own, tmp_path, "train", label=2)["train"]
    assert {records[index] for index in shown(page)} == {"train_two", "train_mute"}
    assert "None fits." in " ".join(write(own, tmp_path, "test", label=0)["test"].texts)


def test_without_javascript_everything_is_there(sheet):
    page = Page(sheet[0] / "jsonl-records-train.html")
    assert "class" not in page.all("html")[0]
    assert not [a for a in page.all("article") if "hidden" in a]
    for tag, attributes in page.tags:  # what only a script moves is for scripts only
        if tag == "output" or attributes.get("id") == "words" or attributes.get("role") == "group":
            assert "script" in attributes["class"].split()
    assert "html:not(.js) .script { display: none; }" in page.code


def test_a_data_set_without_its_account_is_shown(own, tmp_path):
    data = tmp_path / "1.0.0"
    data.mkdir()
    for path in own.iterdir():
        if "manifest" not in path.name and path.name != manifest.SUMMARY:
            (data / path.name).symlink_to(path)
    page = write(data, tmp_path / "sheet", "train")["train"]
    assert len(shown(page)) == 6 and "no readable summary.json" in page.code
    (data / manifest.SUMMARY).write_text('{"splits": {"train": {"records": 3}}}')
    assert survey.account(data).counts("train") == {}
    (data / "train-manifest.jsonl").write_text('{"split": "train"}\n')
    with pytest.raises(UserError, match="unreadable manifest: field 'notes' is missing"):
        write(data, tmp_path / "sheet")


def test_what_cannot_be_shown_is_said_in_a_sentence(data, own, tmp_path):
    with pytest.raises(UserError, match="no split 'night' in .*; available: test, train"):
        write(own, tmp_path, "night")
    with pytest.raises(UserError, match="nowhere: no prepared data set here"):
        write(data / "nowhere", tmp_path)
    with pytest.raises(UserError, match="is a file; name a folder"):
        write(own, next(own.iterdir()))
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable data set"):
        write(tmp_path, tmp_path / "sheet")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [(["--number", "0"], 1, "error: --number: at least 1, got 0\n"),
     (["--split", "train", "--stats_limit", "4", "--label", "tampered"], 0, None)])
def test_the_command(own, tmp_path, flags, code, message):
    run = subprocess.run(
        [sys.executable, "-m", "tools.inspect_data", "--data_dir", str(own), "--output",
         str(tmp_path / "sheet"), *flags], capture_output=True, text=True)
    assert run.returncode == code
    if code:
        assert run.stderr == message and not (tmp_path / "sheet").exists()
    else:
        assert re.fullmatch(r".*index\.html: [0-2] records shown of 1 split\n", run.stdout)
        assert "4/4" in run.stderr  # the progress bar
        page = Page(tmp_path / "sheet" / "jsonl-records-train.html")
        assert "4 looked at, drawn at random" in page.texts

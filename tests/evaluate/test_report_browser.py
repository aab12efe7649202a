"""The report in a browser: sorted, filtered, clicked and typed through, on phones and in the dark.

Skipped where no Chromium is found; CHROMIUM names one that is elsewhere.
"""

import functools
import http.server
import json
import threading
import urllib.parse

import browser
import fake_evaluation
import hostile_text
import pytest
from fake_evaluation import rows_of

from legion_jax.evaluate.report import comparison, items, photos, write_report
from legion_jax.evaluate.report.folder import open_evaluation

CARDS = "[...document.querySelectorAll('.card h3')].map(e => e.textContent)"
NUMBER = 30  # more than the gallery makes at once


chromium = browser.chromium


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluation")
    write_report(path, fake_evaluation.write(path, NUMBER, side=320))
    return path


@pytest.fixture
def page(chromium, folder):
    chromium.errors.clear()
    chromium.requests.clear()
    _open(chromium, folder / "report.html")
    yield chromium
    assert chromium.errors == []
    assert [url for url in chromium.requests if not url.startswith(("file:", "blob:"))] == []


def _open(page: browser.Browser, path, width: int = 1280, *, mark: str = "", **options) -> None:
    page.view(width, **options)
    page.open("about:blank")
    page.open(path.as_uri() + mark)


def _by_quality(folder) -> list[str]:
    return [row["id"] for row in sorted(rows_of(folder), key=lambda row: (
        items.quality(row), row["rouge_l"]))]


def _choose(page: browser.Browser, select: str, words: str) -> None:
    page.run(f"(() => {{ const s = document.getElementById('{select}'); s.value = [...s.options]"
             f".find(o => o.textContent === {json.dumps(words)}).value;"
             "s.dispatchEvent(new Event('change')); })()")


def test_worst_first_and_other_orders(page, folder):
    worst = _by_quality(folder)
    assert page.run(CARDS)[:10] == worst[:10]
    _choose(page, "sort", "best first")
    assert page.run(CARDS)[:10] == worst[::-1][:10]
    _choose(page, "sort", "fake probability, highest first")
    assert page.run(CARDS)[0] == max(rows_of(folder), key=lambda r: r["fake_probability"])["id"]
    _choose(page, "sort", "id")
    assert page.run(CARDS) == sorted(worst)[:len(page.run(CARDS))]


def test_filters_and_words(page, folder):
    rows = rows_of(folder)
    page.click('[data-mark="disagree"]')
    wanted = {row["id"] for row in rows if row["words_agree"] is False}
    assert set(page.run(CARDS)) == wanted and wanted
    page.click('[data-mark="disagree"]')
    _choose(page, "label", "real")
    assert set(page.run(CARDS)) == {row["id"] for row in rows if row["label"] == 0}
    _choose(page, "label", "all")
    page.run("document.getElementById('words').focus()")
    page.type("größe 雪")
    assert page.run(CARDS) == ["größe/雪 🦊.jpg"]
    assert page.run("document.getElementById('left').value") == f"1 of {NUMBER} shown"
    page.type(" nowhere")
    assert page.run(CARDS) == []


def test_more_cards_come_while_scrolling(page):
    assert len(page.run(CARDS)) < NUMBER
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    page.wait(f"document.querySelectorAll('.card').length === {NUMBER}")


def test_photo_pages_next_back_and_keys(page, folder):
    worst = _by_quality(folder)
    title = "document.querySelector('#photo h1')?.textContent"
    page.click(f'.card[data-n="{_place(folder, worst[2])}"] h3 a')
    page.wait(f"{title} === {json.dumps(worst[2])}")
    before = page.run("history.length")
    page.click('[aria-label="next photo"]')
    page.wait(f"{title} === {json.dumps(worst[3])}")
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    page.wait(f"{title} === {json.dumps(worst[1])}")
    assert page.run("history.length") == before + 3
    for name in (worst[2], worst[3], worst[2]):
        page.run("history.back()")
        page.wait(f"{title} === {json.dumps(name)}")
    page.run("history.back()")
    page.wait("!document.getElementById('report').hidden")
    assert page.run("document.activeElement.textContent") == worst[2]
    assert page.run("window.scrollY") > 500  # where it was left, not the top
    page.press("Enter")
    page.wait(f"{title} === {json.dumps(worst[2])}")
    page.press("Escape")
    page.wait("!document.getElementById('report').hidden")


def _place(folder, name: str) -> int:
    return [row["id"] for row in rows_of(folder)].index(name)


@pytest.mark.parametrize("name", fake_evaluation.EVIL)
def test_any_id_has_a_page(page, folder, name):
    mark = "#/photo/" + urllib.parse.quote(name, safe="")
    _open(page, folder / "report.html", mark=mark)
    page.wait("document.querySelector('#photo h1')")
    row = rows_of(folder)[_place(folder, name)]
    assert page.run("document.querySelector('#photo h1').textContent") == name
    page.run("document.querySelectorAll('#photo sup').forEach(number => number.remove())")
    shown = page.run("document.querySelector('#photo').textContent")
    for words in (row["explanation"], row["reference"], f"{row['f1']:.3f}", row["category"],
                  f"{row['size'][1]} × {row['size'][0]}", *(r["detail"] for r in row["regions"])):
        assert words in shown, words
    page.click("#photo header a")
    page.wait("!document.getElementById('report').hidden")


def test_an_unknown_id_is_told(page, folder):
    _open(page, folder / "report.html", mark="#/photo/%E0%A4%A")
    assert page.run("document.getElementById('left').value") == "no photo %E0%A4%A on this page"


def test_masks_are_those_of_the_rows(page, folder):
    """Every pixel of a mask is drawn, and none beside it by more than a pixel of the canvas."""
    from input_pipeline.photos.regions import rle_to_mask

    row = max(rows_of(folder), key=lambda r: r["num_masks"])
    rle = row["regions"][0]["rle"]
    tall, wide = row["size"]
    grid = page.run(f"Array.from(rasterise({json.dumps(rle)}, {wide}, {tall}).grid)")
    mask = rle_to_mask(rle)
    assert grid == mask.ravel().tolist() and mask.any()
    share = page.run(f"area({json.dumps(rle)})")
    assert share == pytest.approx(mask.mean())
    half = page.run(f"Array.from(rasterise({json.dumps(rle)}, {wide // 2}, {tall // 2}).grid)")
    assert abs(sum(half) / len(half) - mask.mean()) < 0.01


def test_a_phrase_lights_its_mask(page, folder):
    row = max(rows_of(folder), key=lambda r: r["num_masks"])
    assert row["num_masks"] > 1
    _open(page, folder / "report.html", mark="#/photo/" + urllib.parse.quote(row["id"], safe=""))
    page.wait("document.querySelector('#photo .said canvas')")
    pixels = "document.querySelector('#photo .said canvas').toDataURL()"
    before = page.run(pixels)
    page.run("document.querySelector('#photo mark[tabindex]').focus()")
    lit = page.run(pixels)
    page.run("document.activeElement.blur()")
    assert lit != before and page.run(pixels) == before
    page.run("document.querySelector('#photo mark[tabindex]').dispatchEvent("
             "new PointerEvent('pointerenter'))")
    assert page.run(pixels) == lit


def test_cards_out_of_sight_hold_no_picture(page):
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    page.wait(f"document.querySelectorAll('.card').length === {NUMBER}")
    page.wait("document.querySelector('.card:last-child img').src.startsWith('blob:')")
    page.wait("!document.querySelector('.card img').src")
    page.run("document.querySelector('.card').scrollIntoView({behavior: 'instant'})")
    page.wait("document.querySelector('.card img').src.startsWith('blob:')")
    page.wait("document.querySelector('.card img').naturalWidth > 0")


def test_dark_by_the_system_and_by_the_switch(page, folder):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.click("#theme")
    dark = page.run(ground)
    assert dark != light and "Light" in page.run("document.getElementById('theme').textContent")
    page.run("localStorage.removeItem('theme')")
    _open(page, folder / "report.html", dark=True)
    assert page.run(ground) == dark
    page.click("#theme")
    assert page.run(ground) == light
    page.run("localStorage.removeItem('theme')")


def test_conventions_are_one_tap_away(page):
    page.click(".tiles .term")
    assert page.run("document.querySelector('[popover]:popover-open').textContent").startswith("F1")
    page.press("Escape")
    assert page.run("document.querySelector('[popover]:popover-open') === null")


@pytest.mark.parametrize("width", [320, 820])
@pytest.mark.parametrize("what", ["report.html", "compare.html"])
def test_nothing_is_wider_than_the_screen(page, folder, tmp_path_factory, width, what):
    path = folder
    if what == "compare.html":
        path = tmp_path_factory.mktemp("compared")
        encoded = fake_evaluation.write(path / "b", 20, seed=1, side=320)
        compared = comparison.compare(open_evaluation(folder), open_evaluation(path / "b"),
                                      resamples=20)
        comparison.write_comparison(path, compared,
                                    picture=functools.partial(photos.picture_of, encoded))
    _open(page, path / what, width, phone=width < 500)
    page.wait("document.querySelector('.card')")
    assert page.run("document.documentElement.scrollWidth") <= width
    page.run("document.querySelector('.card h3 a').click()")
    page.wait("document.querySelector('#photo h1')")
    assert page.run("document.documentElement.scrollWidth") <= width


EVIL = """<script>window.ran = 1</script><img src="x" onerror="window.ran = 2">
<img src="HOST/x.png"><link rel="stylesheet" href="HOST/x.css"><iframe src="HOST/"></iframe>
<svg onload="window.ran = 3"></svg><a href="javascript:window.ran = 4" id="evil">x</a>
<base href="HOST/">"""


@pytest.fixture
def stranger():
    """(address of a server, what it was asked for)."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("policy", [True, False])
def test_what_got_into_a_page_does_not_run_and_asks_for_nothing(chromium, folder, tmp_path,
                                                                stranger, policy):
    """Escaping keeps it out; this is the wall behind it."""
    host, asked = stranger
    text = (folder / "report.html").read_text()
    evil = EVIL.replace("HOST", host)
    text = text.replace("</main>", evil + "</main>", 1)
    if not policy:
        text = text.replace("Content-Security-Policy", "none")
    (tmp_path / "report.html").write_text(text)
    _open(chromium, tmp_path / "report.html")
    chromium.run("document.getElementById('evil').click()")
    assert len(chromium.run(CARDS)) > 5  # its own scripts ran
    assert (chromium.run("window.ran") is None) == policy
    assert (asked == []) == policy
    chromium.errors.clear()


@pytest.mark.parametrize("policy", [True, False])
def test_markup_in_every_field_is_text(chromium, folder, tmp_path, stranger, policy):
    """Of a run's own files, of its folder's name and of a comparison; with the policy or without.

    A mouse goes over everything, and every photo's own page is opened.
    """
    host, asked = stranger
    markup, seen = hostile_text.MARKUP.replace("HOST", host), set()
    home = tmp_path / "'\"><img src=x onerror=window.ran=9>{{ 7*7 }}"
    runs = home / "a", home / "b"
    rows = rows_of(folder)[:6]
    rows[5]["failed"] = "out of memory"
    for run in runs:
        run.mkdir(parents=True)
        fake_evaluation.write_rows(run, hostile_text.hostile(rows, markup, seen))
        metrics = json.loads((folder / "metrics.json").read_text())
        (run / "metrics.json").write_text(json.dumps(hostile_text.hostile(metrics, markup, seen)))
    assert {"[].id", "[].failed", "[].verdict", "[].category", "[].generator", "[].explanation",
            "[].reference", "[].regions[].phrase", "[].regions[].detail", "[].truth[].phrase",
            ".checkpoint", ".data", ".split", ".settings.instruction", ".conventions.text"} <= seen
    write_report(runs[0], {})
    comparison.write_comparison(home, comparison.compare(*map(open_evaluation, runs), resamples=9),
                                picture=None)
    for path in (runs[0] / "report.html", home / "compare.html"):
        if not policy:
            text = path.read_text(encoding="utf-8").replace("Content-Security-Policy", "none")
            path.write_text(text, encoding="utf-8")
        chromium.errors.clear()
        chromium.requests.clear()
        _open(chromium, path)
        assert len(chromium.run(CARDS)) == 6
        for row in rows_of(runs[0]):
            _open(chromium, path, mark="#/photo/" + urllib.parse.quote(row["id"], safe=""))
            chromium.wait("document.querySelector('#photo h1')")
            chromium.run("""for (const e of document.querySelectorAll('*')) {
                e.dispatchEvent(new MouseEvent('mouseover', {bubbles: true})); }""")
            assert chromium.run("window.ran") is None
            assert chromium.run("document.getElementById('evil')") is None
        assert "{{ 7*7 }}" in chromium.run("document.documentElement.textContent")
        assert chromium.errors == [] and asked == []
        assert [url for url in chromium.requests if not url.startswith(("file:", "blob:"))] == []

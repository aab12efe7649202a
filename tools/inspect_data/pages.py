"""The HTML pages of `inspect_data`: one for a split, one that links them all."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from input_pipeline.records.prepared import open_split
from input_pipeline.records.record import LABELS
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.display import web
from tools.inspect_data import bar_charts, contact_sheet, survey, thumbnails
from tools.inspect_data.bar_charts import Chart
from tools.inspect_data.survey import Account, Survey

MAX_VALUES = 12  # categories or generators listed
MAX_PROBLEMS = 12  # unusable records shown beside those asked for
_TEMPLATES = pathlib.Path(__file__).parent / "templates"


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user wants to see; see the flags of `inspect_data`."""

    number: int = 60
    pick: str = "random"
    seed: int = 0
    label: int | None = None
    limit: int | None = None
    tokenizer: Tokenizer | None = None

    @property
    def words(self) -> str:
        """`largest mask first, tampered only`, for the page."""
        how = {"random": f"drawn at random (seed {self.seed})",
               "largest_mask": "largest mask first", "smallest_mask": "smallest mask first",
               "longest_text": "longest caption first",
               "most_regions": "most regions first"}[self.pick]
        return how if self.label is None else f"{how}, {LABELS[self.label]} only"


@dataclasses.dataclass
class Page:
    """The page of one split; what follows `file` is known once the page is made."""

    folder: epath.Path
    name: str
    split: str
    file: str
    records: int = 0
    shown: int = 0
    problems: int = 0
    counts: Mapping = dataclasses.field(default_factory=dict)
    labels: Sequence[tuple[str, int]] = ()
    strip: Sequence[str] = ()
    shared: int = 0
    source: str = ""


def split_page(page: Page, siblings: Sequence[Page], account: Account, request: Request, *,
               strip: int) -> str:
    """The page of a split as HTML; fills in `page`. `strip`: photos of it for the index."""
    source = open_split(page.folder, page.split)
    found = survey.survey(source, title=f"{page.name} {page.split}", limit=request.limit,
                          seed=request.seed, tokenizer=request.tokenizer)
    chosen = survey.choose(found, number=request.number, pick=request.pick,
                           label=request.label, seed=request.seed)
    cards = [contact_sheet.make_card(source, index) for index in chosen]
    broken = [contact_sheet.make_card(source, index) for index in list(found.problems)[
        :MAX_PROBLEMS]]
    for card in broken:
        if not card.problems:  # what the survey met need not stop the card
            card.problems.append(found.problems[card.index])
    page.records, page.shown, page.problems = found.total, len(cards), len(found.problems)
    page.counts, page.source = account.counts(page.split), account.summary.get("source", "")
    page.labels = _labels(page.counts.get("label"), found)
    page.strip = [uri for index in chosen[:strip] if (uri := thumbnails.thumbnail(source, index))]
    shared = {other: n for (split, other), n in account.shared.items() if split == page.split}
    page.shared = account.leaked.get(page.split, 0)
    return _environment().get_template("data_split.html").render(
        page=page, siblings=siblings, account=account, request=request, found=found, cards=cards,
        broken=broken, charts=charts(found, request.tokenizer is not None), canvas=bar_charts,
        lists=_lists(page), notes=_notes(page, account), shared=shared)


def index_page(pages: Sequence[Page], data_dir: str) -> str:
    """The page that links all others, whose splits must be made before."""
    sets = {}
    for page in pages:
        sets.setdefault(page.folder, []).append(page)
    return _environment().get_template("data_index.html").render(
        sets=list(sets.values()), pages=pages, data_dir=data_dir)


def charts(found: Survey, tokens: bool) -> list[Chart]:
    """Histograms of all records looked at; one without a single value is left out."""
    rows = found.rows
    area, clean = rows["area"], int((rows["area"] == 0).sum())
    unknown = int(np.isnan(area).sum())
    texts = rows[rows["characters"] > 0]
    silent = _without(len(rows) - len(texts), "no caption")
    drawn = [
        (area > 0, lambda: bar_charts.shares(
            "Mask area", "share of the photo", area[area > 0],
            ", ".join(filter(None, (_without(clean, "nothing marked"),
                                    _without(unknown, "not looked for")))))),
        (rows["regions"] > 0, lambda: bar_charts.numbers(
            "Regions", "regions per image", rows["regions"])),
        (texts["characters"] > 0, lambda: bar_charts.numbers(
            "Caption length", "characters", texts["characters"], silent)),
        ((texts["tokens"] >= 0) & tokens, lambda: bar_charts.numbers(
            "Caption length", "tokens of the caption alone", texts["tokens"], silent)),
        (rows["width"] > 0, lambda: bar_charts.sizes("Image size", rows["width"],
                                                     rows["height"]))]
    return [make() for some, make in drawn if some.any()]


def _without(count: int, what: str) -> str:
    return f"{count:,} {what}" if count else ""


def _labels(counted: Mapping[str, int] | None, found: Survey) -> list[tuple[str, int]]:
    """(name, number) of each label: of the summary, or of the records looked at."""
    if counted is None:
        values, numbers = np.unique(found.rows["label"], return_counts=True)
        counted = {str(v): int(n) for v, n in zip(values, numbers, strict=True)}
    return [(name, counted[str(label)]) for label, name in LABELS.items() if str(label) in counted]


def _lists(page: Page) -> list[tuple[str, list[tuple[str, int]], int]]:
    """(title, most frequent (value, number), how many more) of label, category and generator."""
    lists = [("Label", list(page.labels), 0)]
    for title in ("Category", "Generator"):
        counted = page.counts.get(title.lower(), {})
        if set(counted) - {""}:
            ranked = sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))
            lists.append((title, [(value or "not told", n) for value, n in ranked[:MAX_VALUES]],
                          len(ranked[MAX_VALUES:])))
    return lists


def _notes(page: Page, account: Account) -> list[tuple[str, str, list]]:
    """(title, what it means, [(reason, number, named items)]) of what preparing changed."""
    kinds = (("skipped", "Left out", "records that could not be used"),
             ("repaired", "Repaired", "records put right"),
             ("dropped", "Dropped", "marks left out, also of records that were skipped then"))
    return [(title, meaning, [(reason, n, account.named.get((page.split, kind, reason), ()))
                              for reason, n in sorted(page.counts[kind].items(),
                                                      key=lambda pair: -pair[1])])
            for kind, title, meaning in kinds if page.counts.get(kind)]


def _environment():
    environment = web.environment(_TEMPLATES)
    environment.filters["percent"] = bar_charts.percent
    return environment

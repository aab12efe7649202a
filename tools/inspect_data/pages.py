"""The HTML pages of `inspect_data`: one for a split, one that links them all."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from input_pipeline import files
from input_pipeline.records.prepared import open_split
from input_pipeline.records.record import LABELS
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.display import gallery, web
from tools.inspect_data import contact_sheet, survey, survey_charts
from tools.inspect_data.survey import Account, Survey

MAX_VALUES = 12  # categories or generators listed
MAX_PROBLEMS = 12  # unusable records shown beside those asked for
STRIP = 8  # photos of a split on the index
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


def write_split(path: pathlib.Path, page: Page, siblings: Sequence[Page], account: Account,
                request: Request) -> None:
    """Writes the page of a split, whole or not at all; fills in `page`."""
    source = open_split(page.folder, page.split)
    measured = survey.survey(source, title=f"{page.name} {page.split}", limit=request.limit,
                             seed=request.seed, tokenizer=request.tokenizer)
    chosen = survey.choose(measured, number=request.number, pick=request.pick,
                           label=request.label, seed=request.seed)
    _fill(page, measured, account, source, chosen)
    broken = list(measured.problems)[:MAX_PROBLEMS]
    items, pictures = zip(*(
        contact_sheet.record_item(source, index, number, measured.problems.get(index, ""))
        for number, index in enumerate([*chosen, *broken])), strict=True) if (
            chosen or broken) else ((), ())
    shared = {other: n for (split, other), n in account.shared.items() if split == page.split}
    html = web.environment(_TEMPLATES).get_template("data_split.html").render(
        page=page, siblings=siblings, account=account, request=request, survey=measured,
        charts=survey_charts.charts_of(measured, tokens=request.tokenizer is not None),
        lists=_lists(page), notes=_notes(page, account), shared=shared, broken=len(broken),
        config=gallery.config(contact_sheet.SORTS, contact_sheet.MARKS, truth="Masks",
                              reference="Caption"))
    with files.whole_file(path) as file:
        file.write(html)
        gallery.write_items(file, items)
        gallery.write_pictures(file, pictures)


def _fill(page: Page, measured: Survey, account: Account, source: Sequence,
          chosen: Sequence[int]) -> None:
    """What the index shows of a page, once its split is measured."""
    page.records, page.shown, page.problems = measured.total, len(chosen), len(measured.problems)
    page.counts, page.source = account.counts(page.split), account.summary.get("source", "")
    page.labels = _labels(page.counts.get("label"), measured)
    page.strip = [uri for index in chosen[:STRIP]
                  if (uri := contact_sheet.thumbnail(source, index))]
    page.shared = account.leaked.get(page.split, 0)


def write_index(path: pathlib.Path, pages: Sequence[Page], data_dir: str) -> None:
    """Writes the page that links all others, which must be written before."""
    sets = {}
    for page in pages:
        sets.setdefault(page.folder, []).append(page)
    with files.whole_file(path) as file:
        file.write(web.environment(_TEMPLATES).get_template("data_index.html").render(
            sets=list(sets.values()), pages=pages, data_dir=data_dir))


def _labels(counted: Mapping[str, int] | None, measured: Survey) -> list[tuple[str, int]]:
    """(name, number) of each label: of the summary, or of the records looked at."""
    if counted is None:
        values, numbers = np.unique(measured.rows["label"], return_counts=True)
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

"""Two evaluations on the photos both scored: differences with intervals, and where they differ."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from input_pipeline import files
from input_pipeline.errors import UserError
from legion_jax.display import gallery, numbers, web
from legion_jax.display.numbers import signed
from legion_jax.evaluate.intervals import RESAMPLES, paired_difference
from legion_jax.evaluate.report import items, tables
from legion_jax.evaluate.report.folder import Evaluation

MAX_PHOTOS = 60
_TEMPLATES = pathlib.Path(__file__).parent / "templates"
# What has to be the same, or numbers mean different things. The path of each in metrics.json.
SAME = (("data",), ("settings", "content"), ("settings", "rasteriser"), ("settings", "pixel_rule"),
        ("settings", "verdict_rule"), ("text", "css_model"))
# Conventions that may differ: how sure numbers are, other numbers, and what is said of systems that
# are judged by their words, or have more classes, as they may be compared with others.
APART = ("intervals", "robustness", "detection.words", "detection.classes", "teacher_forced")
LESS_IS_BETTER = ("false_area", "ece", "brier", "nll")
HEADLINES = ("localisation.mean.f1", "localisation.mean.miou", "detection.accuracy",
             "detection.classes.accuracy", "detection.classes.macro_f1",
             "text.rouge_l", "text.css")  # of each category
SORTS = {
    "far": ("largest difference first", True), "b": ("B better first", True),
    "a": ("A better first", False), "f1": ("difference of mask F1, B first", True),
    "rouge_l": ("difference of ROUGE-L, B first", True), "id": ("id", False)}
MARKS = {"a_wrong": "only A has a wrong verdict", "b_wrong": "only B has a wrong verdict",
         "both_wrong": "both have a wrong verdict"}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two evaluations and their rows of the photos both scored, in the order of a."""

    a: Evaluation
    b: Evaluation
    rows_a: Sequence[dict]
    rows_b: Sequence[dict]
    num_only_a: int
    num_only_b: int
    resamples: int = RESAMPLES
    seed: int = 0

    def result(self) -> dict:
        """The content of compare.json."""
        how = {"resamples": self.resamples, "seed": self.seed,
               "rule": self.a.block("settings").get("pixel_rule", "exact")}
        overall = paired_difference(self.rows_a, self.rows_b, **how)
        parts: dict[str, list[int]] = {}
        for number, row in enumerate(self.rows_a):
            if row["category"]:
                parts.setdefault(row["category"], []).append(number)
        categories = {name: {"num_photos": len(part), "differences": paired_difference(
            [self.rows_a[k] for k in part], [self.rows_b[k] for k in part], **how)}
            for name, part in sorted(parts.items())}
        runs = {name: {"folder": str(run.path)} | {key: run.metrics.get(key) for key in (
            "checkpoint", "split", "num_photos")} for name, run in (("a", self.a), ("b", self.b))}
        return {**runs, "data": self.a.metrics.get("data"), "num_shared": len(self.rows_a),
                "num_only_a": self.num_only_a, "num_only_b": self.num_only_b,
                "conventions": dict(self.a.block("conventions")) | {
                    "differences": f"b - a on the photos both scored; 95 % percentile intervals of "
                                   f"{self.resamples} paired bootstrap resamples of photos."},
                "differences": overall, "categories": categories,
                "photos": [{"id": a["id"], "difference": _change(a, b, items.quality),
                            "f1": _change(a, b, "f1"), "rouge_l": _change(a, b, "rouge_l")}
                           for a, b in zip(self.rows_a, self.rows_b, strict=True)]}


def compare(a: Evaluation, b: Evaluation, *, resamples: int = RESAMPLES,
            seed: int = 0) -> Comparison:
    """Puts two evaluations beside each other.

    Raises UserError, naming both values, where they are of other data or count differently, or
    where no photo is in both.
    """
    check_same(a, b)
    rows_a, rows_b = ({row["id"]: row for row in run.rows()} for run in (a, b))
    shared = [name for name in rows_a if name in rows_b]
    if not shared:
        raise UserError(f"{a.path} and {b.path} have no photo in common: {len(rows_a)} and "
                        f"{len(rows_b)} photos of split {a.metrics.get('split')} and "
                        f"{b.metrics.get('split')}")
    return Comparison(a, b, [rows_a[name] for name in shared], [rows_b[name] for name in shared],
                      num_only_a=len(rows_a) - len(shared), num_only_b=len(rows_b) - len(shared),
                      resamples=resamples, seed=seed)


def check_same(a: Evaluation, b: Evaluation) -> None:
    """Raises UserError, naming both values, where numbers of two evaluations differ in meaning."""
    blocks = [("conventions", name) for name in dict.fromkeys(
        [*a.block("conventions"), *b.block("conventions")])
        if name not in APART]
    for path in (*SAME, *blocks):
        ours, theirs = a.value(*path), b.value(*path)
        if ours != theirs:
            raise UserError(f"not comparable: {'.'.join(path)} is {ours!r} in {a.path}, "
                            f"{theirs!r} in {b.path}")


def write_comparison(output: epath.PathLike, compared: Comparison, *,
                     picture: Callable[[Mapping], str] | None,
                     max_photos: int = MAX_PHOTOS) -> dict:
    """Writes compare.json and compare.html; the photos that differ most are in the page.

    Args:
        picture: a JPEG in base64 of a row's photo, or ""; None where there are no photos to show.
        max_photos: shown at most.

    Returns:
        The content of compare.json.
    """
    output = epath.Path(output)
    files.make_folder(output)
    result = compared.result()
    pairs = sorted(zip(compared.rows_a, compared.rows_b, strict=True), key=lambda pair: -abs(
        _change(*pair, items.quality) or 0.0))[:max_photos]
    page = web.environment(_TEMPLATES).get_template("compare.html").render(
        result=result, shown=len(pairs), pictures=picture is not None, items=items,
        overall=forest(result["differences"], compared.a),
        categories={name: (part["num_photos"], forest(
            {key: value for key, value in part["differences"].items() if key in HEADLINES},
            compared.a)) for name, part in result["categories"].items()},
        changed=settings_that_differ(compared), config=gallery.config(SORTS, MARKS))
    with files.whole_file(output / "compare.html") as file:
        file.write(page)
        gallery.write_items(file, (pair(*rows, number) for number, rows in enumerate(pairs)))
        gallery.write_pictures(file, (picture(row) if picture else "" for row, _ in pairs))
    files.write_json(output / "compare.json", result)
    return result


def pair(a: Mapping, b: Mapping, number: int) -> dict:
    """A photo and both answers to it, as JSON."""
    change = _change(a, b, items.quality)
    wrong = [items.right(row) is False for row in (a, b)]
    name = {(True, False): "a_wrong", (False, True): "b_wrong", (True, True): "both_wrong"}
    return items.photo(a, number) | {
        "keys": {"far": None if change is None else abs(change), "a": change, "b": change,
                 "f1": _change(a, b, "f1"), "rouge_l": _change(a, b, "rouge_l"), "id": a["id"]},
        "marks": [name[tuple(wrong)]] if any(wrong) else [],
        "answers": [items.answer(a, "A"), items.answer(b, "B")]}


@dataclasses.dataclass(frozen=True)
class Difference:
    """A row of the table: a number, both values, b - a, and the places of it in per cent.

    low, high, zero, place: along a line with room for all intervals of the table. better: "A", "B"
    or "" where the interval holds zero. equal: whether nothing at all differs.
    """

    term: tables.Term
    a: str
    b: str
    difference: str
    interval: str
    low: float
    high: float
    zero: float
    place: float
    better: str
    equal: bool


def forest(differences: Mapping[str, Mapping], run: Evaluation) -> list[Difference]:
    """The rows of a table of `paired_difference`; what is in nats does not set the scale."""
    reach = max((abs(value[key]) for path, value in differences.items()
                 if not path.endswith(".nll") for key in ("low", "high", "difference")),
                default=0) or 1.0

    def place(value: float) -> float:
        return round(50 + 48 * max(-1.0, min(1.0, value / reach)), 2)

    return [Difference(
        _term(path, run), numbers.score(value["a"]), numbers.score(value["b"]),
        signed(value["difference"]), f"{signed(value['low'])} to {signed(value['high'])}",
        place(value["low"]), place(value["high"]), place(0), place(value["difference"]),
        better(path, value), value["low"] == value["high"] == 0) for path, value in sorted(
            differences.items(), key=lambda item: item[0] not in HEADLINES)]


def better(path: str, value: Mapping) -> str:
    """"A" or "B", whichever is better beyond chance at 95 %; else ""."""
    if value["low"] <= 0 <= value["high"]:
        return ""
    less = any(path.split(".")[-1].startswith(name) for name in LESS_IS_BETTER)
    return "B" if (value["low"] > 0) != less else "A"


def settings_that_differ(compared: Comparison) -> list[tuple[str, str, str]]:
    """(setting, value in a, value in b) of the settings the two were not made with alike."""
    a, b = (dict(tables.settings(run)) for run in (compared.a, compared.b))
    return [(name, a.get(name, "–"), b.get(name, "–")) for name in dict.fromkeys([*a, *b])
            if a.get(name) != b.get(name)]


def _term(path: str, run: Evaluation) -> tables.Term:
    *block, key = path.split(".")
    term = tables.term(run, key, *block)
    way = tables.MEANS.get(block[-1], "" if len(block) < 2 else block[-1])
    if block[-1] == "classes":
        way = ""  # the name says so
    if block[0] == "teacher_forced":
        way = ", ".join(filter(None, [way, "true answer given"]))
    return dataclasses.replace(term, name=f"{term.name}, {way}" if way else term.name)


def _change(a: Mapping, b: Mapping, measure: str | Callable) -> float | None:
    before, after = (measure(row) if callable(measure) else row[measure] for row in (a, b))
    return None if before is None or after is None else after - before

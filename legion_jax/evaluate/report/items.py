"""What the browser gets to know of a photo: its row, ready to be shown, sorted and filtered."""

from collections.abc import Mapping, Sequence

from input_pipeline.records import verdict_classes
from input_pipeline.records.record import LABELS, REAL, UNKNOWN
from input_pipeline.text.conversation import FreePlaces
from legion_jax.display import gallery
from legion_jax.evaluate import class_scores
from legion_jax.evaluate.word_verdicts import lacks_verdict

# Order of the cards: name -> (words, whether the largest comes first).
SORTS = {
    "worst": ("worst first", False), "best": ("best first", True),
    "f1": ("mask F1, lowest first", False), "fg_iou": ("mask IoU, lowest first", False),
    "fake": ("fake probability, highest first", True),
    "real": ("fake probability, lowest first", False),
    "rouge_l": ("ROUGE-L, lowest first", False), "id": ("id", False)}
# What photos can be filtered by, beside label, category and text.
MARKS = {
    "wrong": "wrong verdict", "class": "fake, but of another class",
    "unparsed": "no verdict in the answer", "drawn": "verdict drawn",
    "disagree": "words disagree", "missed": "artifacts missed",
    "invented": "masks on clean photos", "cut": "answer cut off",
    "failed": "not readable"}
WORST = ("mean of the mask F1 and of the probability given to the truth, of those there are; "
         "ties by ROUGE-L")


def item(row: Mapping, number: int) -> dict:
    """A photo and the one answer to it, as JSON; `number` names it within the page."""
    return photo(row, number) | {
        "keys": sort_keys(row), "marks": marks(row), "answers": [answer(row)]}


def photo(row: Mapping, number: int) -> dict:
    """What is true of a photo, whoever answers."""
    reference, phrases = row["reference"], [region["phrase"] for region in row["truth"]]
    regions = [{"phrase": region["phrase"], "rle": region.get("rle")} for region in row["truth"]]
    return gallery.truth_item(
        number, row["id"], label=row["label"], size=row["size"],
        category=row["category"], generator=row["generator"], regions=regions,
        reference=gallery.pieces(reference, find_phrases(reference, phrases)),
        # The union says nothing new where every artifact has its own mask, or there is none.
        union=row["truth_rle"] if _has_union(row) else None, marked=row["counts"] is not None)


def answer(row: Mapping, title: str = "Prediction") -> dict:
    """What a model said of a photo."""
    spans = [region["span"] for region in row["regions"]]
    regions = [{"phrase": region["phrase"], "detail": region.get("detail", ""),
                "rle": region.get("rle"), "score": region.get("score")}
               for region in row["regions"]]
    shown = ("failed", "verdict", "probability", "fake_probability", "drawn", "words",
             "words_agree", "finished", "answer", "rouge_l", "css", "counts", "fg_iou", "bg_iou",
             "miou", "f1", "num_regions", "num_masks")
    return {"title": title, "explanation": gallery.pieces(row["explanation"], spans),
            "regions": regions, "right": right(row), "unparsed": lacks_verdict(row)} | {
                name: row[name] for name in shown}


def right(row: Mapping) -> bool | None:
    """Whether the verdict is right, real against not real; None without a verdict or a truth.

    An answer in which what judges finds no verdict is a wrong one.
    """
    if row["label"] == UNKNOWN:
        return None
    if row["verdict"] is None:
        return False if lacks_verdict(row) else None
    return verdict_classes.means_real(row["verdict"]) == (row["label"] == REAL)


def is_other_class(row: Mapping) -> bool:
    """Whether a fake was rightly called one, but given another class than its own."""
    classes = class_scores.classes_of([row])
    if not (classes and right(row)) or row["label"] == REAL:
        return False
    own = verdict_classes.class_of(LABELS[row["label"]], classes)
    return own is not None and class_scores.index_of(row["verdict"], classes) != own


def quality(row: Mapping) -> float | None:
    """How good the answer is, 0 to 1, see WORST; None where nothing of it can be judged.

    A verdict of words that has no probability was given 1, a missing one 0.
    """
    parts = [] if row["f1"] is None else [row["f1"]]
    if row["fake_probability"] is not None and row["label"] != UNKNOWN:
        fake = row["fake_probability"]
        parts.append(1 - fake if row["label"] == REAL else fake)
    elif row["verdict_by"] is not None and row["label"] != UNKNOWN:
        parts.append(float(right(row)))
    return sum(parts) / len(parts) if parts else row["rouge_l"]


def sort_keys(row: Mapping) -> dict[str, list | float | str | None]:
    """{name of SORTS: what to sort by}; None goes last, whatever the direction."""
    good = quality(row)
    worst = None if good is None else [good, row["rouge_l"] or 0.0]
    return {"worst": worst, "best": worst, "f1": row["f1"], "fg_iou": row["fg_iou"],
            "fake": row["fake_probability"], "real": row["fake_probability"],
            "rouge_l": row["rouge_l"], "id": row["id"]}


def marks(row: Mapping) -> list[str]:
    """The names in MARKS of what is true of a photo and its answer."""
    tp, fp, fn, _ = row["counts"] or (0, 0, 0, 0)
    holds = {"wrong": right(row) is False, "class": is_other_class(row),
             "unparsed": lacks_verdict(row), "drawn": row["drawn"],
             "disagree": row["words_agree"] is False,
             "missed": tp == 0 and fn > 0, "invented": tp + fn == 0 and fp > 0,
             "cut": not row["finished"] and not row["failed"], "failed": bool(row["failed"])}
    return [name for name, is_so in holds.items() if is_so]


def find_phrases(text: str, phrases: Sequence[str]) -> list[list[int] | None]:
    """Where each phrase first stands in a text outside of those before it, any case."""
    # A few letters change their length when lowered, and with it all places after them.
    lower = str.lower if len(text.lower()) == len(text) else str
    places = FreePlaces(lower(text))
    spans = (places.take(lower(phrase) if phrase.strip() else "") for phrase in phrases)
    return [list(span) if span else None for span in spans]


def _has_union(row: Mapping) -> bool:
    tp, _, fn, _ = row["counts"] or (1, 0, 0, 0)
    return tp + fn > 0 and not any(region.get("rle") for region in row["truth"])

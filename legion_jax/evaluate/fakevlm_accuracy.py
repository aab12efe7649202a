"""The accuracies that FakeVLM's evaluation prints, counted and rounded as it does.

Beside the accuracies of a whole evaluation and of its categories (`summary`), which are not rounded
and leave out what there is no photo of, for comparison with figures that were published.
"""

from collections.abc import Mapping, Sequence

from input_pipeline.records import verdict_classes

PLACES = 4  # of the accuracies of a category
COUNTS = ("right_real", "wrong_real", "right_fake", "wrong_fake")


def counts_of(rows: Sequence[dict]) -> dict[str, dict[str, int]]:
    """{category: {name of COUNTS: photos}} of all rows whose label is known, by category.

    A photo that could not be read counts as wrong. Tampered photos are fake.
    """
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["label"] < 0:
            continue
        fake = row["label"] > 0
        right = row["verdict"] is not None and (
            verdict_classes.means_real(row["verdict"]) != fake)
        category = counts.setdefault(row["category"], dict.fromkeys(COUNTS, 0))
        category[f"{'right' if right else 'wrong'}_{'fake' if fake else 'real'}"] += 1
    return dict(sorted(counts.items()))


def published_accuracy(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict]:
    """Accuracies as printed, of `counts_of`.

    Returns:
        category_acc: {category: {total_samples, total_accuracy, real_accuracy, fake_accuracy, of
            PLACES places and 0 of a class without photos, confusion_matrix: the counts}}.
        global_stats: {total_right, total_wrong, global_accuracy: not rounded, 0 without photos}.
    """
    categories, right, total = {}, 0, 0
    for name, of_category in counts.items():
        real, fake = (_right_and_all(of_category, kind) for kind in ("real", "fake"))
        both = real[0] + fake[0], real[1] + fake[1]
        right, total = right + both[0], total + both[1]
        categories[name] = {
            "total_samples": both[1], "total_accuracy": round(_share(*both), PLACES),
            "real_accuracy": round(_share(*real), PLACES),
            "fake_accuracy": round(_share(*fake), PLACES),
            "confusion_matrix": {count: of_category[count] for count in COUNTS}}
    return {"category_acc": categories, "global_stats": {
        "total_right": right, "total_wrong": total - right,
        "global_accuracy": _share(right, total)}}


def _right_and_all(counts: Mapping[str, int], kind: str) -> tuple[int, int]:
    right = counts[f"right_{kind}"]
    return right, right + counts[f"wrong_{kind}"]


def _share(right: int, total: int) -> float:
    return right / total if total else 0.0

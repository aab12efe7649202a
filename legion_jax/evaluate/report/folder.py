"""The folder an evaluation wrote: metrics.json, and rows.jsonl read a row at a time."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from input_pipeline import files, strict_json
from input_pipeline.errors import UserError

# What a row holds where nothing is known. Only `id` has to be there.
UNKNOWN = {
    "label": -1, "category": "", "generator": "", "size": None, "verdict": None,
    "probability": None, "fake_probability": None, "verdict_by": None, "classes": (),
    "drawn": False, "words": None, "words_agree": None, "finished": True, "explanation": "",
    "answer": "", "reference": "", "rouge_l": None, "css": None, "counts": None, "fg_iou": None,
    "bg_iou": None, "miou": None, "f1": None, "num_regions": None, "num_masks": None,
    "regions": (), "truth": (), "truth_rle": None, "failed": None}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A folder and its metrics.json; texts and numbers of photos stay in the file.

    Attributes:
        path: the folder.
        metrics: content of metrics.json; NaN and infinities are None.
    """

    path: epath.Path
    metrics: Mapping[str, Any]

    def rows(self) -> Iterator[dict]:
        """Every row of rows.jsonl in order, with what `UNKNOWN` has for keys it lacks.

        Raises UserError naming a line that is no JSON object, has no id, or has the id of an
        earlier line.
        """
        path, seen = self.path / "rows.jsonl", {}
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                row = _object(line, f"{path}, line {number}")
                if not isinstance(row.get("id"), str):
                    raise UserError(f"{path}, line {number}: needs an id that is text, "
                                    f"got {row.get('id')!r}")
                first = seen.setdefault(row["id"], number)
                if first != number:
                    raise UserError(f"{path}, line {number}: id {row['id']!r} was on line "
                                    f"{first} before")
                yield UNKNOWN | {name: value for name, value in row.items()
                                 if value is not None or name not in UNKNOWN}

    def value(self, *path: str) -> Any:
        """Whatever is at a path of keys in metrics.json; None without."""
        return value_at(self.metrics, path)

    def number(self, *path: str) -> float | None:
        """The number at a path of keys, such as "localisation", "mean", "f1"; None without."""
        value = self.value(*path)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number else None

    def block(self, *path: str) -> Mapping[str, Any]:
        """The object at a path of keys; empty without one."""
        value = self.value(*path)
        return value if isinstance(value, Mapping) else {}

    def interval(self, *path: str) -> tuple[float, float] | None:
        """The 95 % interval of `number`, or None."""
        ends = self.block("intervals").get(".".join(path))
        return None if ends is None or None in ends else (ends[0], ends[1])


def value_at(values: Mapping, path: Sequence[str]) -> Any:
    """Whatever is at a path of keys, None where there is nothing."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def open_evaluation(folder: epath.PathLike) -> Evaluation:
    """Opens a folder written by `legion_jax.evaluate`.

    Raises UserError where it has no metrics.json or rows.jsonl, or the former is no JSON object.
    """
    folder = epath.Path(folder)
    for name in ("metrics.json", "rows.jsonl"):
        if not (folder / name).exists():
            raise UserError(f"{folder}: no {name} here; name the output folder of an evaluation")
        files.check_plain(folder / name, UserError)
    return Evaluation(folder, strict_json.read(folder / "metrics.json", error=UserError,
                                               not_finite=lambda _: None))


def _object(content: bytes, name: str) -> dict:
    return strict_json.parse(content, name, error=UserError, not_finite=lambda _: None)

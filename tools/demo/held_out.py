"""The held-out photos a page shows, and what the trained model says of them."""

import pathlib
from collections.abc import Sequence

from PIL import Image

from input_pipeline.photos import images
from input_pipeline.records import verdict_classes
from input_pipeline.records.record import Record
from legion_jax.config import VISION, LegionConfig
from legion_jax.predict import result_files
from legion_jax.predict.predictor import Predictor
from tools.demo.confusion import class_of, is_right
from tools.demo.demo_page import Example


def choose(rows: list[dict]) -> tuple[list[int], int | None]:
    """Three photos to show, two with artifacts and one without, and the worst failure.

    The shown ones are typical: tampered photos at the upper quartile of F1. The failure is the
    lowest F1 of all.
    """
    tampered = sorted((r["f1"], i) for i, r in enumerate(rows) if r["label"] > 0)
    real = [i for i, r in enumerate(rows) if r["label"] == 0]
    upper = tampered[int(0.75 * len(tampered)):]
    shown = [upper[0][1], upper[len(upper) // 2][1]] + real[:1]
    worst = next((i for _, i in sorted((r["f1"], i) for i, r in enumerate(rows))
                  if i not in shown), None)
    return shown, worst


def choose_by_class(rows: Sequence[dict], classes: Sequence[str]) -> tuple[list[int], int | None]:
    """A typical photo of each class, those that are not real first, and the worst failure.

    Photos are ranked by the F1 of their masks where these were marked, else by ROUGE-L. The typical
    one of a class has the median of those judged rightly; of one that is never judged rightly, none
    is shown. The failure is the lowest of those judged wrongly, else of all others.
    """
    ranked = sorted(range(len(rows)), key=lambda number: (_merit(rows[number]), number))
    shown = []
    for truth in sorted(range(len(classes)), key=lambda c: verdict_classes.means_real(classes[c])):
        right = [number for number in ranked if class_of(rows[number], classes) == truth
                 and is_right(rows[number], classes)]
        shown += right[len(right) // 2:][:1]
    others = [number for number in ranked if number not in shown]
    wrong = [number for number in others if not is_right(rows[number], classes)]
    return shown, next(iter(wrong or others), None)


def _merit(row: dict) -> float:
    scores = (row["f1"], row["rouge_l"], 0.0)
    return next(score for score in scores if score is not None)


def example(root: pathlib.Path, predictor: Predictor, record: Record, row: dict, *,
            explain: str = "fakes") -> Example:
    """Predict one held-out photo as tools.predict does and collect what the report shows.

    `explain`: as of `Predictor`.
    """
    photo = images.read_image(record.image, name=record.id)
    prediction = predictor([photo], explain=explain)[0]
    folder = root / "held_out"
    path = folder / f"{row['id']}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(path)
    line = result_files.as_json(str(path), row["id"], prediction)
    result_files.write(root / "predictions", line, photo, prediction)
    model = predictor.config
    return Example(
        name=row["id"], image=photo,
        truth=record.marked(photo.shape[:2]) if record.has_masks else None,
        prediction=result_files.overlay(photo, prediction) if model.sam else None,
        verdict=prediction.verdict, probability=prediction.fake_probability,
        label=_label(row, model), right=is_right(row, model.classes),
        explanation=prediction.explanation, reference=row["reference"], f1=row["f1"])


def _label(row: dict, model: LegionConfig) -> str:
    """What a photo is, in the words of the model's verdict; a head on the tower says real or fake.
    """
    if model.verdict_source == VISION:
        return "fake" if row["label"] > 0 else "real"
    return model.classes[class_of(row, model.classes)]

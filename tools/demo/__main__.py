"""The whole path on two CPU cores: photos, training, evaluation, prediction, export, report.

    python -m tools.demo --output demo

Every step leaves its result under OUTPUT and is skipped, or continued, when it is run again.
"""

import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import flags
from etils import epath
from PIL import Image

from experiments import tiny
from input_pipeline import paths
from input_pipeline.datasets import open_dataset
from input_pipeline.photos import images
from input_pipeline.records import prepared
from input_pipeline.records.builder import prepare
from input_pipeline.scarred_photos import dataset_folder
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import train_tokenizer
from legion_jax import command
from legion_jax.config import tiny as tiny_model
from legion_jax.convert import to_torch
from legion_jax.display import numbers
from legion_jax.evaluate import (
    chunks,
    mask_scores,
    minilm_files,
    run as evaluation,
    settings,
    text_scores,
    weighted,
)
from legion_jax.evaluate.summary import summary
from legion_jax.evaluate.terminal import show
from legion_jax.predict import result_files
from legion_jax.predict.predictor import Predictor
from legion_jax.train.run import train
from legion_jax.weights.checkpoint import Checkpoint, find_step
from tools.demo.demo_page import Aim, DemoReport, Example, ScoreRow, write_report

NUM_TRAIN, NUM_TEST, PIECES = 4000, 120, 1024
# Which checkpoint is best is decided on some held-out photos, and judged on the others.
DECIDING, SCORED_EVERY = 40, 90
WANTED_F1, WANTED_ACCURACY = 0.50, 0.90


def make_data(root: pathlib.Path, config) -> None:
    """Photos, prepared data set and tokenizer."""
    dataset_folder.make_dataset(root / "photos", num_train=NUM_TRAIN, num_test=NUM_TEST,
                                progress=True)
    prepare(open_dataset("synthscars/photos", str(root / "photos")), root / "data")
    if not (root / "tokenizer").exists():
        annotations = json.loads((root / "photos/train/annotations/train.json").read_text())
        captions = [next(iter(item.values()))["caption"] for item in annotations]
        # The prompt stands in every conversation, so it earns its own pieces.
        prompts = [conversation.build_prompt(config.data.instruction)] * 50
        train_tokenizer(captions + prompts, PIECES, root / "tokenizer")


def make_config(root: pathlib.Path):
    config = tiny.get_config()
    config.data.data_dir = str(root / "data")
    config.data.tokenizer = str(root / "tokenizer")
    config.data.eval_split = f"test[:{DECIDING}]"
    config.eval.every, config.eval.photos = SCORED_EVERY, DECIDING
    config.checkpoint_keep_best = 1
    return config


def score_row(name: str, result: dict, *, judged: bool = True) -> ScoreRow:
    """The demo's scores among those of an evaluation; of masks alone where nothing is `judged`."""
    masks, verdicts = result["localisation"], result.get("detection", {}) if judged else {}
    artifacts = masks["mean_with_artifacts"] or {}
    return ScoreRow(
        name=name, f1=masks["mean"]["f1"], f1_with_artifacts=artifacts.get("f1"),
        miou=masks["mean"]["miou"], fg_iou=masks["mean"]["fg_iou"],
        pooled_f1=masks["pooled"]["f1"], accuracy=verdicts.get("accuracy"), auc=verdicts.get("auc"),
        rouge_l=result["text"]["rouge_l"] if judged else None,
        css=result["text"]["css"] if judged else None)


def constant_mask(name: str, counts: np.ndarray) -> ScoreRow:
    """Score of a mask that does not look at the photo."""
    scores = weighted.values(mask_scores.localisation(counts), len(counts))
    return score_row(name, {"localisation": scores}, judged=False)


def css_encoder() -> tuple[Callable[[list[str]], np.ndarray] | None, str]:
    """The sentence encoder and its name after --css_model=; None and '' if it is not installed."""
    if missing := minilm_files.missing():
        print(f"CSS is not computed: {missing} is not installed: {minilm_files.HINT}")
        return None, ""
    return text_scores.encoder(minilm_files.NAME), minilm_files.NAME


def score(root: pathlib.Path, config, source, css) -> tuple[list[ScoreRow], list[dict], Predictor]:
    """Trained and untrained model and two constant masks on the held-out photos.

    `css`: of `css_encoder`.
    """
    size, run = config.eval.batch_size, str(root / "run")
    checkpoint = Checkpoint.open(run)
    trained = Predictor.from_checkpoint(checkpoint, batch_size=size)
    data = evaluation.open_data(root / "data", "test")
    task = evaluation.Task(data.source, evaluation.facts_of(checkpoint, data), lambda: trained,
                           data.unlike_published)
    result = evaluation.run(task, epath.Path(root / "evaluation"),
                            evaluation.Scoring(settings.DEFAULT, *css), folder=run)
    rows = list(chunks.read(root / "evaluation" / chunks.ROWS))
    show(result)
    untrained = Predictor.untrained(
        tiny_model(trained.tokenizer.vocab_size),
        trained.tokenizer, question=trained.question, batch_size=size)
    baseline, _ = evaluation.evaluate(untrained, source, encode=css[0])
    counts = np.array([row["counts"] for row in rows])
    return [score_row("trained model", result), score_row("untrained model", baseline),
            constant_mask("all-ones mask", mask_scores.all_ones_counts(counts)),
            constant_mask("empty mask", mask_scores.empty_counts(counts))], rows, trained


def best_and_last(root: pathlib.Path, config, source, rows: list[dict], css) -> list[ScoreRow]:
    """The best checkpoint and the last on the held-out photos that did not decide which is best.

    `rows`: of all held-out photos, by the last one. `css`: of `css_encoder`.
    """
    last, best = (find_step(root / "run", wanted) for wanted in ("newest", "best"))
    scores = [score_row(f"last, after {last} updates", summary(rows[DECIDING:]))]
    if best != last:
        predictor = Predictor.from_checkpoint(Checkpoint.open(root / "run", step=best),
                                              batch_size=config.eval.batch_size)
        result, _ = evaluation.evaluate(
            predictor, [source[number] for number in range(DECIDING, len(source))], encode=css[0])
        scores.insert(0, score_row(f"best, after {best} updates", result))
    return scores


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


def example(root: pathlib.Path, predictor: Predictor, record, row: dict) -> Example:
    """Predict one held-out photo as tools.predict does and collect what the report shows."""
    photo = images.read_image(record.image, name=record.id)
    prediction = predictor([photo])[0]
    folder = root / "held_out"
    folder.mkdir(exist_ok=True)
    path = folder / f"{row['id']}.png"
    Image.fromarray(photo).save(path)
    line = result_files.as_json(str(path), row["id"], prediction)
    result_files.write(root / "predictions", line, photo, prediction)
    return Example(
        name=row["id"], image=photo, truth=record.marked(photo.shape[:2]),
        prediction=result_files.overlay(photo, prediction),
        verdict=prediction.verdict, probability=prediction.fake_probability,
        is_fake=row["label"] > 0, explanation=prediction.explanation, reference=row["reference"],
        f1=row["f1"])


def run(root: pathlib.Path) -> list[Aim]:
    """All steps; returns the aims with what was reached."""
    started = time.monotonic()
    root.mkdir(parents=True, exist_ok=True)
    config = make_config(root)
    make_data(root, config)
    trained_from = time.monotonic()
    train(config, root / "run")
    training = time.monotonic() - trained_from
    source = prepared.open_split(root / "data", "test")
    css = css_encoder()
    scores, rows, predictor = score(root, config, source, css)
    compared = best_and_last(root, config, source, rows, css)
    shown, worst = choose(rows)
    examples = [example(root, predictor, source[i], rows[i]) for i in shown]
    failure = None if worst is None else example(root, predictor, source[worst], rows[worst])
    shutil.rmtree(root / "pytorch", ignore_errors=True)
    written = to_torch.export(str(root / "run"), str(root / "pytorch"),
                              file_format="safetensors")
    aims = [Aim("F1 on held-out photos, mean", WANTED_F1, scores[0].f1),
            Aim("verdict accuracy on held-out photos", WANTED_ACCURACY, scores[0].accuracy)]
    curve = [json.loads(line) for line in (root / "run/metrics.jsonl").read_text().splitlines()]
    facts = [
        ("photos trained on", ", ".join(_stems("train"))),
        ("photos held out", ", ".join(_stems("test"))),
        ("training images", f"{NUM_TRAIN:,}"), ("held-out images", f"{NUM_TEST:,}"),
        ("updates", f"{len(curve):,} of {config.batch_size} images"),
        ("training took", numbers.duration(training)),
        ("everything took", numbers.duration(time.monotonic() - started)),
        ("devices", f"{jax.device_count()} x {jax.devices()[0].platform}, "
                    f"{os.cpu_count()} CPU cores"),
        ("written for PyTorch", ", ".join(f"{n} tensors ({r})" for r, n in written.items()))]
    write_report(root / "report.html", DemoReport(
        "LEGION learns on scarred photographs", facts, curve, scores, compared, aims, examples,
        failure, minilm_files.MODEL if css[1] else ""))
    return aims


def _stems(split: str) -> list[str]:
    return [pathlib.PurePath(name).stem for name in dataset_folder.PHOTOS[split]]


if __name__ == "__main__":
    OUTPUT = flags.DEFINE_string("output", "demo", "Folder of the demo.")

    def main() -> None:
        root = paths.local_only(OUTPUT.value, "--output", "the demo opens its own pages")
        for aim in run(root):
            print(f"{aim.name}: {aim.reached:.3f}, aim {aim.wanted:.2f}, {aim.outcome}")
        print(f"open {root / 'report.html'}; every photo is in {root / 'evaluation/report.html'}")

    command.run(main)

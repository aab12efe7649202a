"""The whole path on two CPU cores: photos, training, evaluation, prediction, export, report.

    python -m tools.demo --output demo
    python -m tools.demo --output demo --system fakevlm

Every step leaves its result under OUTPUT, a relative's under OUTPUT/SYSTEM, and is skipped, or
continued, when it is run again.
"""

import json
import os
import pathlib
import shutil
import time

import jax
from absl import flags

from input_pipeline import paths
from input_pipeline.datasets import open_dataset
from input_pipeline.records import prepared
from input_pipeline.records.builder import prepare
from input_pipeline.scarred_photos import dataset_folder
from input_pipeline.scarred_photos.samples import PHOTOS
from legion_jax import command
from legion_jax.config import VISION
from legion_jax.convert import to_torch
from legion_jax.display import numbers
from legion_jax.evaluate import minilm_files
from legion_jax.train.run import train
from tools.demo.demo_page import Aim, DemoReport, write_report
from tools.demo.demo_scores import Scores, best_and_last, css_encoder, score
from tools.demo.demo_systems import LEGION, SYSTEMS, System
from tools.demo.held_out import choose, choose_by_class, example

NUM_TRAIN, NUM_TEST, PIECES = 4000, 120, 1024
# Which checkpoint is best is decided on some held-out photos, and judged on the others.
DECIDING = 40


def make_data(root: pathlib.Path, system: System, config) -> None:
    """Photos, prepared data set and tokenizer."""
    dataset_folder.make_dataset(root / "photos", num_train=NUM_TRAIN, num_test=NUM_TEST,
                                layout=system.layout, progress=True)
    prepare(open_dataset(system.dataset, str(root / "photos")), root / "data")
    if not (root / "tokenizer").exists():
        dialogue = system.dialogue(config)
        # The prompt stands in every conversation, so it earns its own pieces.
        prompts = [dialogue.prompt(config.data.instruction or dialogue.instruction)] * 50
        dialogue.train_tokenizer(system.texts(root / "photos") + prompts, PIECES,
                                 root / "tokenizer")


def make_config(root: pathlib.Path, system: System):
    """The recipe of a system, on its data, scored now and then."""
    config = system.recipe.get_config()
    config.data.data_dir = str(root / "data")
    config.data.tokenizer = str(root / "tokenizer")
    config.data.eval_split = f"test[:{DECIDING}]"
    config.eval.every, config.eval.photos = system.scored_every, DECIDING
    config.checkpoint_keep_best = 1
    return config


def export(root: pathlib.Path) -> dict[str, int]:
    """Writes the trained model for PyTorch; returns {file: tensors in it}."""
    shutil.rmtree(root / "pytorch", ignore_errors=True)
    return to_torch.export(str(root / "run"), str(root / "pytorch"), file_format="safetensors")


def examples_of(root: pathlib.Path, system: System, source, scores: Scores):
    """(the examples of a page, its failure or None)."""
    by_class = scores.predictor.config.verdict_source != VISION
    shown, worst = (choose_by_class(scores.rows, scores.classes) if by_class
                    else choose(scores.rows))

    def shown_as(number: int):
        return example(root, scores.predictor, source[number], scores.rows[number],
                       explain=system.explain)

    return [shown_as(number) for number in shown], None if worst is None else shown_as(worst)


def run(output: pathlib.Path, system: System = LEGION) -> list[Aim]:
    """All steps; returns the aims with what was reached."""
    started, root = time.monotonic(), system.folder(output)
    root.mkdir(parents=True, exist_ok=True)
    config = make_config(root, system)
    make_data(root, system, config)
    trained_from = time.monotonic()
    train(config, root / "run")
    training = time.monotonic() - trained_from
    source = prepared.open_split(root / "data", "test")
    css = css_encoder()
    scores = score(root, config, source, css)
    compared = best_and_last(root, config, source, scores.rows, deciding=DECIDING, encode=css[0],
                             classes=scores.classes)
    examples, failure = examples_of(root, system, source, scores)
    written = export(root)
    aims = [Aim(name, wanted, getattr(scores.table[0], key)) for name, wanted, key in system.aims]
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
    model = scores.predictor.config
    write_report(root / "report.html", DemoReport(
        system.title, facts, curve, scores.table, compared, aims, examples, failure,
        minilm_files.MODEL if css[1] else "", masks=model.sam is not None,
        metric=config.eval.metric,
        confusion=scores.confusion if model.verdict_source != VISION else None,
        false_area=scores.result["localisation"]["false_area_on_real"] if model.sam else None))
    return aims


def _stems(split: str) -> list[str]:
    return [pathlib.PurePath(name).stem for name in PHOTOS[split]]


if __name__ == "__main__":
    OUTPUT = flags.DEFINE_string("output", "demo", "Folder of the demo.")
    SYSTEM = flags.DEFINE_enum("system", LEGION.name, list(SYSTEMS), "What is trained.")

    def main() -> None:
        output = paths.local_only(OUTPUT.value, "--output", "the demo opens its own pages")
        system = SYSTEMS[SYSTEM.value]
        root = system.folder(output)
        for aim in run(output, system):
            print(f"{aim.name}: {aim.reached:.3f}, aim {aim.wanted:.2f}, {aim.outcome}")
        print(f"open {root / 'report.html'}; every photo is in {root / 'evaluation/report.html'}")

    command.run(main)

"""True answers given to a model, scored as SIDA's published evaluation does."""

import dataclasses
import functools
import io
import json
import types

import family_golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import relatives
from etils import epath
from html_page import Page
from PIL import Image
from random_models import randomized

from input_pipeline.batches import examples
from input_pipeline.errors import UserError
from input_pipeline.photos import images, perturbations
from input_pipeline.photos.regions import mask_to_png
from input_pipeline.records.record import REAL, SYNTHETIC, TAMPERED, UNKNOWN, Record
from input_pipeline.text.dialogue import LISA, SIDA
from legion_jax import config as architecture
from legion_jax.convert import from_torch
from legion_jax.convert.plan import Options
from legion_jax.evaluate import run, settings, teacher_forced, terminal, weighted
from legion_jax.evaluate.photo_rows import Source
from legion_jax.evaluate.report import comparison, published_results, tables
from legion_jax.evaluate.report.folder import open_evaluation
from legion_jax.evaluate.settings import DEFAULT, compatible
from legion_jax.evaluate.teacher_forced import TeacherForced
from legion_jax.models import param_tree
from legion_jax.predict.prediction import Question
from legion_jax.predict.predictor import Predictor
from legion_jax.predict.programs import abstract_params
from legion_jax.sharding import make_mesh
from legion_jax.weights.checkpoint import Checkpoint

TEXTS = ["The image is real.", "The image is full synthetic.", "The image is tampered."] * 20
CLASSES = ["real", "synthetic", "tampered"]
FACTS = {"data": "sid_set/folders", "split": "test", "step": 3,
         "question": {"instruction": "Real?", "dialogue": "sida"}}


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def made(name, label, size=(40, 60), *, mask=None, image=None) -> Record:
    """A record whose photo is noise; `mask`: uint8[H, W], grey, of which a union is made too."""
    rng = np.random.default_rng(ord(name[-1]))
    marked = {} if mask is None else {"union_mask": mask_to_png(mask >= 128),
                                      "heatmap": png(mask)}
    return Record(
        id=name, dataset="sid_set", file_name=name, group_id=name, label=label,
        image=png(rng.integers(0, 256, (*size, 3))) if image is None else image, height=size[0],
        width=size[1], has_masks=mask is not None or label == REAL, **marked)


def grey() -> np.ndarray:
    """uint8[40, 60], white with a grey border on black."""
    values = np.zeros((40, 60), np.uint8)
    values[8:30, 10:40] = 130
    values[10:28, 14:36] = 255
    return values


RECORDS = [made("r0", REAL), made("t1", TAMPERED, mask=grey()), made("s2", SYNTHETIC, (30, 20)),
           made("t3", TAMPERED), made("u4", UNKNOWN), made("t5", TAMPERED, image=b"no image"),
           made("t6", TAMPERED, (60, 40), mask=grey().T)]


def mesh():
    return make_mesh((1, 1, 1), jax.devices()[:1])


@pytest.fixture(scope="module")
def predictor(config, tmp_path_factory):
    tokenizer = SIDA.train_tokenizer(TEXTS, 330, tmp_path_factory.mktemp("sida") / "t")
    sized = dataclasses.replace(relatives.sida(config), language=dataclasses.replace(
        config.language, vocab=tokenizer.vocab_size, max_positions=1024))
    params = param_tree.flatten(param_tree.split_params(
        randomized(param_tree.abstract_model(sized)), param_tree.EVERYTHING)[1])
    return Predictor(sized, params, tokenizer, batch_size=4, group=2, mesh=mesh(),
                     question=Question("Real?", max_new_tokens=4, dialogue=SIDA.name))


@pytest.fixture(scope="module")
def evaluated(predictor, tmp_path_factory):
    """(folder, metrics.json, rows) of RECORDS."""
    folder = tmp_path_factory.mktemp("forced")
    result = run.run(run.Task(Source([("test", RECORDS)]), FACTS, lambda: predictor, ""),
                     epath.Path(folder), run.Scoring(compatible("sida"), resamples=20),
                     folder="weights")
    return folder, result, [
        json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def given(verdict, *overlaps, label=TAMPERED):
    """A row of a true answer."""
    return {"label": label, "classes": CLASSES, "forced": {
        "verdict": verdict, "logits": [0.0, 0.0, 0.0], "overlaps": list(overlaps),
        "left_out": None}}


def test_numbers_by_hand():
    rows = [given("tampered", [30, 60]), given("real", [0, 0]), given("tampered"),
            given("real", label=REAL), given("synthetic", label=SYNTHETIC),
            given("tampered", label=SYNTHETIC), given("real", label=UNKNOWN),
            given(None) | {"label": REAL}]
    tree = teacher_forced.block(rows)
    numbers = weighted.values(tree, len(rows))
    accuracy, ciou = 4 / 6, 30 / 60
    assert numbers["giou"] == pytest.approx((0.5 + 1) / 2)
    assert numbers["ciou"] == ciou and numbers["pixel_accuracy"] == 50
    assert numbers["classes"]["accuracy"] == pytest.approx(accuracy)
    assert numbers["f1"] == pytest.approx(2 * ciou * accuracy / (ciou + accuracy))
    precision, recall = (1 / 2 + 1 + 2 / 3) / 3, (1 + 1 / 2 + 2 / 3) / 3
    assert numbers["auc"] == pytest.approx(precision * recall)
    assert (numbers["num"], numbers["num_masks"], numbers["num_left_out"]) == (6, 2, 2)
    assert numbers["classes"]["confusion"]["synthetic"] == {
        "real": 0, "synthetic": 1, "tampered": 1, "none": 0}
    twice = np.array([[2, 0, 1, 1, 0, 1, 5, 5]])
    again = weighted.values(teacher_forced.block([row for row, n in zip(
        rows[:6], twice[0], strict=False) for _ in range(n)]), 5)
    assert tree["giou"](twice)[0] == again["giou"] and tree["f1"](twice)[0] == again["f1"]
    assert teacher_forced.block([given(None)]) == {}


@functools.partial(jax.jit, static_argnums=5)
def by_parts(model, ids, views, at_cls, at_seg, image_index):
    """Verdict logits and mask logits [4Y, 4X] of one text, the states at given places."""
    x = model.embed(ids[None], model.see(views["vision_image"][None]), image_index)
    states = model.read(x, jnp.ones(x.shape[:2], bool))[0]
    logits = model.judge(states[at_cls][None])
    prompt = model.fuse(model.prompt(states[at_seg][None, None]), logits, jnp.ones((1, 1), bool))
    seen = model.ground(views["sam_image"][None], views["resized_size"][None])
    return logits[0], model.draw(seen, prompt)[0][0, 0]


def by_hand(p, record):
    """Logits and [pixels of both masks, of either] of a predictor for a true answer."""
    answer = dict(SIDA.openings)[{0: "real", 1: "synthetic", 2: "tampered"}[record.label]]
    text = "".join(part.text for part in SIDA.parts([("Real?", answer)]))
    ids = list(p.tokenizer.encode_with_image(text))
    at = [ids.index(p.tokenizer.added[token]) + p.config.vision.num_patches - 2
          if token in answer else 0 for token in ("[CLS]", "[SEG]")]
    views = examples.image_fields(images.read_image(record.image, name=""), p.spec)
    model = param_tree.merge(param_tree.split_params(
        param_tree.abstract_model(p.config), param_tree.EVERYTHING)[0], p.params)
    logits, low = by_parts(model, np.pad(np.array(ids), (0, 300 - len(ids))), views, *at,
                           ids.index(-200))
    if not record.union_mask:
        return logits, None
    size, (height, width) = p.config.sam.image_size, views["resized_size"]
    drawn = np.asarray(jax.image.resize(low, (size, size), "bilinear"))[:height, :width] > 0
    true = np.asarray(Image.open(io.BytesIO(record.heatmap)).resize(
        (width, height), Image.Resampling.BILINEAR)) == 255
    return logits, [int((drawn & true).sum()), int((drawn | true).sum())]


def test_classes_and_masks_are_those_at_the_true_tokens(predictor, evaluated):
    rows = evaluated[2]
    assert [row["id"] for row in rows] == [record.id for record in RECORDS]
    for number in (0, 1, 2, 6):
        forced, record = rows[number]["forced"], RECORDS[number]
        with jax.set_mesh(predictor.mesh):
            logits, overlap = by_hand(predictor, record)
        np.testing.assert_allclose(forced["logits"], logits, rtol=1e-4, atol=1e-4)
        assert forced["verdict"] == CLASSES[int(np.argmax(logits))]
        assert forced["overlaps"] == ([] if overlap is None else [overlap])
        assert forced["left_out"] is None
    assert sum(rows[1]["forced"]["overlaps"][0]) > 0


def test_what_has_no_true_answer_is_left_out_by_name(evaluated):
    _, result, rows = evaluated
    assert rows[3]["forced"]["verdict"] and not rows[3]["forced"]["overlaps"]  # without a mask
    assert "label is unknown" in rows[4]["forced"]["left_out"]
    assert rows[5]["forced"]["left_out"] == rows[5]["failed"]
    forced = result["teacher_forced"]
    assert (forced["num"], forced["num_masks"], forced["num_left_out"]) == (5, 2, 2)
    assert result["detection"]["num"] == 6  # of the answers the model wrote


def test_damage_is_done_to_photos_alone(predictor, evaluated):
    damaged = dataclasses.replace(compatible("sida"), perturbation="blur", level=15.0)
    answered = [(number, evaluated[2][number]) for number in (1, 2)]
    rows = dict(TeacherForced(predictor).added(
        answered, Source([("test", RECORDS)]), damaged))
    for number, clean in answered:
        assert not np.allclose(rows[number]["forced"]["logits"], clean["forced"]["logits"])
    blurred = [dataclasses.replace(record, image=png(perturbations.perturb(
        images.read_image(record.image, name=""), "blur", 15, record_id=record.id)))
        for record in RECORDS if record.id != "t5"]
    again = dict(TeacherForced(predictor).added(answered, Source([("test", blurred)]), DEFAULT))
    for number, _ in answered:
        assert rows[number]["forced"] == again[number]["forced"]


def test_the_numbers_stand_beside_those_of_written_answers(evaluated, predictor, tmp_path, capsys):
    folder, result, _ = evaluated
    assert {"teacher_forced.giou", "teacher_forced.classes.accuracy"} <= result["intervals"].keys()
    assert "can be compared" in result["conventions"]["teacher_forced"]
    terminal.show(result)
    assert "given the true answer (--compat=sida): accuracy" in capsys.readouterr().out
    opened = open_evaluation(folder)
    names = [name.name for name, _ in tables.block(opened, "", "teacher_forced").rows]
    assert names == ["gIoU", "cIoU", "pixel accuracy", "F1", "AUC", "true masks",
                     "photos left out"]
    [table] = published_results.standing(opened).tables
    rows = {name.name: cells for name, cells in table.rows}
    assert rows["this run, given the true answer"][6].text == (
        f"{100 * result['teacher_forced']['classes']['accuracy']:.2f}")
    page = Page((folder / "report.html").read_text())
    assert "Given the true answer" in page.texts
    plain = run.run(run.Task(Source([("test", RECORDS)]), FACTS, lambda: predictor, ""),
                    epath.Path(tmp_path), run.Scoring(DEFAULT, resamples=20), folder="weights")
    assert "teacher_forced" not in plain and plain["detection"] == result["detection"]
    alike = comparison.compare(opened, open_evaluation(tmp_path), resamples=20).result()
    assert "teacher_forced.giou" not in alike["differences"]
    assert "teacher_forced True" in settings.explain("sida")


def test_other_systems_are_refused():
    def check(config, dialogue):
        teacher_forced.check(types.SimpleNamespace(
            meta=types.SimpleNamespace(config=config), folder="runs/x"),
            Question("Real?", dialogue=dialogue))

    check(architecture.tiny_sida(), "sida")
    check(architecture.tiny_sida(), "sida_described")
    for config, dialogue, message in (
            (architecture.tiny(), "legion", "source is 'vision', SAM is there"),
            (architecture.tiny_fakevlm(), "llava15_chat", "source is 'words', SAM is not there"),
            (architecture.tiny_sida(), LISA.name, r"dialogue lisa, whose answers have no \[CLS\]")):
        with pytest.raises(UserError, match=f"--compat=sida: reads .*runs/x .*{message}"):
            check(config, dialogue)


@pytest.mark.slow
def test_against_the_published_code(tmp_path, torch_files):
    """Logits, and pixels of both masks and of either, of what the published branch computed."""
    case = family_golden.folder("S")
    sizes = family_golden.read(case, "case.json")["sam"] | {"decoder_num_heads": 8}
    from_torch.convert(str(case / "checkpoint"), str(tmp_path / "model"), clip=str(case / "clip"),
                       options=Options(sam=sizes), progress=False)
    checkpoint = Checkpoint.open(tmp_path / "model")
    config = dataclasses.replace(checkpoint.meta.config, dtype="float32",
                                 position_dtype="float32")
    params = checkpoint.load(param_tree.flatten(abstract_params(config, mesh())))
    predictor = Predictor(config, params, checkpoint.tokenizer, batch_size=1, mesh=mesh(),
                          question=Question(SIDA.instruction, dialogue=SIDA.name))
    recorded = family_golden.read(case, "meta.json")["inference_branch"]
    folders = {"t": ("tampered", ".png", TAMPERED), "r": ("real", ".jpg", REAL)}
    records = []
    for name in recorded:
        folder, ending, label = folders[name[0]]
        photo = (case / "data/train" / folder / f"{name}{ending}").read_bytes()
        mask = None if label == REAL else np.asarray(
            Image.open(case / "data/train/masks" / f"{name}_mask.png").convert("L"))
        records.append(made(name, label, images.read_image(photo, name=name).shape[:2], mask=mask,
                            image=photo))
    rows = dict(TeacherForced(predictor).added(
        ((number, {"failed": None, "label": record.label})
         for number, record in enumerate(records)), Source([("train", records)]), DEFAULT))
    for number, published in enumerate(recorded.values()):
        forced = rows[number]["forced"]
        np.testing.assert_allclose(forced["logits"], published["logits"][0], rtol=1e-4, atol=1e-4)
        if "union" in published:
            [[both, either]] = forced["overlaps"]
            assert abs(both - published["intersection"][1]) <= 1e-5 * published["union"][1]
            assert abs(either - published["union"][1]) <= 1e-5 * published["union"][1]

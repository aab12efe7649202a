"""Which class of a verdict head a label is: the written rules, any order, and what is refused."""

import pytest
from hypothesis import given, settings, strategies as st

from input_pipeline.records import verdict_classes
from input_pipeline.records.record import LABELS, UNKNOWN
from input_pipeline.records.verdict_classes import ClassError, class_of
from legion_jax.config import VerdictConfig

KNOWN = [name for number, name in LABELS.items() if number != UNKNOWN]


def named(classes: tuple[str, ...]) -> list[str | None]:
    """Names of the classes of photos labelled real, synthetic and tampered."""
    indices = [class_of(label, classes) for label in KNOWN]
    return [None if index is None else classes[index] for index in indices]


HEADS = [
    (("synthetic", "real"), ["real", "synthetic", "synthetic"]),  # published
    (("tampered", "real"), ["real", "tampered", "tampered"]),  # experiments/tiny.py
    (("fake", "real"), ["real", "fake", "fake"]),
    (("Authentic", "AI"), ["Authentic", "AI", "AI"]),
    (("tampered", "real", "synthetic"), ["real", "synthetic", "tampered"]),
    (("real", "full_synthetic", "Tampered"), ["real", "full_synthetic", "Tampered"]),  # SIDA's
    (("real", "full synthetic", "manipulated"), ["real", "full synthetic", "manipulated"]),
    (("real", "tampered", "edited"), ["real", None, "tampered"]),  # its own name comes first
    (("real", "edited", "manipulated"), ["real", None, None]),  # either might be meant
    (("real", "fake", "tampered"), ["real", "fake", "tampered"]),
    (("real", "gan", "diffusion"), ["real", None, None]),
    (("synthetic", "tampered"), [None, "synthetic", "tampered"]),
    (("nature", "ai"), [None, None, None]),
    ((), [None, None, None]),
]


@pytest.mark.parametrize("classes, expected", HEADS)
def test_the_written_rules(classes, expected):
    assert named(classes) == expected


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(HEADS), st.randoms(use_true_random=False))
def test_the_order_of_classes_decides_nothing(head, random):
    classes, expected = list(head[0]), head[1]
    random.shuffle(classes)
    assert named(tuple(classes)) == expected


def test_every_label_has_rules():
    assert list(verdict_classes.OTHER_NAMES) == KNOWN
    with pytest.raises(ClassError, match="no class is for photos labelled unknown"):
        class_of("unknown", ("real", "fake"))


@pytest.mark.parametrize("name, real", [
    ("real", True), ("REAL", True), ("authentic", True), ("fake", False), ("unreal", False),
    ("", False), (None, False)])
def test_whether_a_name_means_real(name, real):
    assert verdict_classes.means_real(name) is real


@pytest.mark.parametrize("classes, message", [
    (("real",), "two names or more.*'real'"),
    (("real", "fake", "Fake"), "a name of its own, got 'real', 'fake', 'Fake'"),
    (("real", " "), "a name of its own"),
    (("real", "fake", "genuine"), "more than one class means real: 'real', 'fake', 'genuine'")])
def test_a_model_with_unusable_names_is_refused(classes, message):
    with pytest.raises(ClassError, match=f"verdict_classes: .*{message}"):
        VerdictConfig(classes=classes)


@pytest.mark.parametrize("classes, labels, words", [
    (("real", "gan", "diffusion"), ["real", "tampered"],
     ["data, split a: photos are labelled real, tampered", "the classes real, gan, diffusion",
      "none means tampered", "tampered or manipulated or edited or fake", "legion.json"]),
    (("real", "edited", "manipulated"), ["tampered"], ["edited and manipulated both"]),
    (("synthetic", "tampered"), ["synthetic", "real"], ["none means real", "real or authentic"])])
def test_labels_without_a_class_are_refused_with_both_lists(classes, labels, words):
    with pytest.raises(ClassError) as refused:
        verdict_classes.check_labels(labels, classes, "data, split a")
    assert all(part in str(refused.value) for part in words)


def test_labels_that_are_there_alone_need_a_class():
    verdict_classes.check_labels(["real"], ("real", "gan", "diffusion"), "data")
    verdict_classes.check_labels(KNOWN, ("tampered", "real"), "data")


def test_what_is_taken_under_another_name():
    assert verdict_classes.renamed(KNOWN, ("tampered", "real")) == {"synthetic": "tampered"}
    assert verdict_classes.renamed(KNOWN, ("Tampered", "real", "synthetic")) == {}


def test_the_class_of_real_photos():
    assert verdict_classes.real_class(("synthetic", "Genuine")) == 1
    assert verdict_classes.real_class(()) is None
    with pytest.raises(ClassError, match="weights: no class .* means real: nature, ai; to choose"):
        verdict_classes.real_class(("nature", "ai"), "weights")

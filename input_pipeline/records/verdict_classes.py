"""Which class of a verdict head a label is: by the names of both, whatever their order and number.

Names are compared in lower case, hyphens and underscores as spaces. The class of a label is the
first of these that a head has:

1. the class with the label's own name: real, synthetic, tampered;
2. the class with one of its other names, see `OTHER_NAMES`;
3. of a label that is not real, the class "fake";
4. of a label that is not real, the other class of a head of two of which one means real: such a
   head says nothing but real or not real.

Nothing is guessed beyond that. A head has one class that means real, and how probable it is that a
photo is not real is 1 - the probability of that class, however many others there are.
"""

from collections.abc import Iterable, Sequence

from input_pipeline.errors import UserError

REAL, FAKE = "real", "fake"
OTHER_NAMES = {
    REAL: ("authentic", "genuine", "pristine"),
    "synthetic": ("full synthetic", "fully synthetic", "generated", "ai generated"),
    "tampered": ("manipulated", "edited")}


class ClassError(UserError):
    """Class names of a verdict head that cannot be used, or not for these labels."""


def means_real(name: str | None) -> bool:
    """Whether a class of this name is the one of real photos; None is no class."""
    return isinstance(name, str) and _plain(name) in (REAL, *OTHER_NAMES[REAL])


def class_of(label: str, classes: Sequence[str]) -> int | None:
    """Index of the class of photos labelled `label`, by the rules above.

    Args:
        label: "real", "synthetic" or "tampered", see `record.LABELS`.
        classes: names of the head's classes by index.

    Returns:
        None where there is no such class, or where two have an equal claim.
    """
    candidates = _candidates(label, classes)
    return candidates[0] if len(candidates) == 1 else None


def check_names(classes: Sequence[str]) -> None:
    """Raise ClassError for a head of one class, or two classes that have one name or mean real."""
    plain, given = [_plain(name) for name in classes], ", ".join(map(repr, classes))
    if len(plain) == 1:
        raise ClassError(f"verdict_classes: two names or more, or none at all, not {given}")
    if len(set(plain)) < len(plain) or "" in plain:
        raise ClassError(f"verdict_classes: every class needs a name of its own, got {given}")
    if sum(map(means_real, classes)) > 1:
        raise ClassError(f"verdict_classes: more than one class means real: {given}")


def real_class(classes: Sequence[str], subject: str = "verdict_classes") -> int | None:
    """Index of the class that means real, None of a model without classes.

    Raises ClassError, which begins with `subject`, where no class does.
    """
    if (index := class_of(REAL, classes)) is None and classes:
        raise ClassError(f"{subject}: no class of the verdict head means real: "
                         f"{', '.join(classes)}; {_how_to_choose(REAL, classes)}")
    return index


def check_labels(labels: Iterable[str], classes: Sequence[str], subject: str) -> None:
    """Raise ClassError, which begins with `subject`, where a label has no one class.

    Args:
        labels: those of a data set, as of `class_of`.
        subject: the data set, for the message.
    """
    labels = list(labels)
    for label in labels:
        if class_of(label, classes) is None:
            claims = [classes[index] for index in _candidates(label, classes)]
            why = f"{' and '.join(claims)} both mean {label}" if claims else f"none means {label}"
            raise ClassError(
                f"{subject}: photos are labelled {', '.join(labels)}, the verdict head has the "
                f"classes {', '.join(classes)}: {why}; {_how_to_choose(label, classes)}")


def renamed(labels: Iterable[str], classes: Sequence[str]) -> dict[str, str]:
    """{label: name of its class} of the labels whose class has another name than they."""
    names = {label: classes[class_of(label, classes)] for label in labels}
    return {label: name for label, name in names.items() if _plain(name) != label}


def _candidates(label: str, classes: Sequence[str]) -> list[int]:
    """Classes with an equal claim to a label, by the first rule that finds any."""
    if label not in OTHER_NAMES:
        raise ClassError(f"no class is for photos labelled {label}")
    plain = [_plain(name) for name in classes]
    ranks = [(label,), OTHER_NAMES[label]]
    if label != REAL:
        others = [name for name in plain if not means_real(name)]
        ranks += [(FAKE,), others if len(plain) == 2 and len(others) == 1 else ()]
    for names in ranks:
        if indices := [index for index, name in enumerate(plain) if name in names]:
            return indices
    return []


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _how_to_choose(label: str, classes: Sequence[str]) -> str:
    names = [label, *OTHER_NAMES[label], *[FAKE] * (label != REAL)]
    return (f"to choose, call one of the {len(classes)} classes {' or '.join(names)} in "
            f"verdict_classes of the checkpoint's legion.json")

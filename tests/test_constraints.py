"""The releases that the gate passed with fit what the project asks for, all of it."""

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import ROOT

from legion_jax.evaluate import minilm_files

FILES = sorted((ROOT / "tests").glob("constraints-*.txt"))


def requirements() -> list[Requirement]:
    """Of the library, the demo and the tests; PyTorch's build is the machine's choice."""
    lines = [line.split("#")[0].strip() for line in
             (ROOT / "requirements.txt").read_text().splitlines()]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"]
    return [Requirement(line) for line in (*lines, *extras["demo"], *extras["test"]) if line]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_requirement_has_a_release_that_fits(file):
    pinned = {}
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            name, release = line.split("==")
            pinned[canonicalize_name(name)] = release
    for wanted in requirements():
        if wanted.name == "peft" and "without peft" in file.read_text():
            continue  # it needs PyTorch, whose build is the machine's choice
        release = pinned[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(release), f"{wanted} but {release}"


def test_the_weights_of_the_encoder_are_one_release_everywhere():
    release = f"{minilm_files.PACKAGE}=={minilm_files.VERSION}"
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"]["css"]
    assert release in extra
    assert f"$(PIP) --no-deps {release}\n" in (ROOT / "Makefile").read_text()
    assert all(release in file.read_text().splitlines() for file in FILES)


def test_there_is_one():
    assert FILES

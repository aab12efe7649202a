"""The wheel: which packages, templates, recipes and commands an installation gets."""

import configparser
import shutil
import subprocess
import sys
import zipfile

import pytest
from repository import ROOT

COMMANDS = {
    "legion-train": "legion_jax.train.__main__:main",
    "legion-evaluate": "legion_jax.evaluate.__main__:main",
    "legion-predict": "legion_jax.predict.__main__:main",
    "legion-convert": "legion_jax.convert.import_command:main",
    "legion-export": "legion_jax.convert.export_command:main"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """{name: content} of the wheel, built from a copy, since building leaves folders behind."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "requirements.txt", "README.md"):
        shutil.copy(ROOT / name, source / name)
    for name in ("legion_jax", "input_pipeline", "experiments", "tools", "tests/support"):
        shutil.copytree(ROOT / name, source / name,
                        ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", str(source), "--no-deps",
                    "--no-build-isolation", "--no-index", "--quiet", "-w", str(folder)], check=True)
    file, = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_two_packages_and_every_file_of_them(wheel):
    metadata = next(name for name in wheel if name.endswith(".dist-info/METADATA")).split("/")[0]
    assert {name.split("/")[0] for name in wheel} == {"legion_jax", "input_pipeline", metadata}
    wanted = {str(file.relative_to(ROOT)) for package in ("legion_jax", "input_pipeline")
              for file in (ROOT / package).rglob("*")
              if file.suffix == ".py" or file.parent.name == "templates"}
    assert wanted - wheel.keys() == set()
    assert any("/templates/" in name for name in wanted)
    assert not [name for name in wheel if name.startswith(("tools/", "experiments/", "tests/"))]


def test_every_recipe_and_sweep_is_there_byte_for_byte(wheel):
    folder = ROOT / "experiments"
    recipes = {f"legion_jax/recipes/{file.relative_to(folder)}": file.read_bytes()
               for file in folder.rglob("*.py")}
    assert "legion_jax/recipes/base.py" in recipes
    assert {name: content for name, content in wheel.items()
            if name.startswith("legion_jax/recipes/")} == recipes


def test_commands(wheel):
    entries = configparser.ConfigParser()
    entries.read_string(next(content for name, content in wheel.items()
                             if name.endswith(".dist-info/entry_points.txt")).decode())
    assert dict(entries["console_scripts"]) == COMMANDS

"""legion_jax/train/recipes.py: recipes by name and by path, here and as a wheel has them."""

import os
import shutil
import subprocess
import sys

import pytest
from absl import flags
from repository import ROOT

from legion_jax.train import recipes

RECIPES = ["base", "detect_tiny", "fakevlm_7b", "fakevlm_7b_lora", "pretrain_7b", "sida_13b",
           "sida_7b", "sida_7b_describe", "sida_7b_published", "tiny", "tiny_fakevlm", "tiny_sida"]


def config_of(*words):
    own = flags.FlagValues()
    holder = recipes.define_flag(own, ["train", *words])
    own(["train", *words])
    return holder.value


def test_names_and_paths_are_the_same_recipe(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert recipes.known() == RECIPES
    by_name = config_of("--config=tiny", "--config.batch_size=3")
    assert by_name == config_of("--config", "experiments/tiny.py", "--config.batch_size=3")
    assert by_name.batch_size == 3 and by_name.model.name == "tiny"


def test_names_need_no_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_of("--config=base").batch_size == 16
    assert recipes.find("sweeps/lora_rank") == ROOT / "experiments/sweeps/lora_rank.py"


def test_a_misspelt_name_lists_the_recipes():
    with pytest.raises(FileNotFoundError, match="tinny: no such file and no recipe; recipes: "
                                                f"{', '.join(RECIPES)}"):
        config_of("--config=tinny")


def test_a_recipe_of_ones_own_changes_a_known_one(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from legion_jax.train import recipes\n\n\ndef get_config(size):\n"
                    "    c = recipes.load('base').get_config()\n"
                    "    c.batch_size = int(size)\n    return c\n")
    assert config_of(f"--config={file}:7").batch_size == 7
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ImportError, match="notes.txt: no Python file"):
        recipes.load(str(tmp_path / "notes.txt"))


def test_a_recipe_changed_within_the_second_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "mine.py"
    for size in (3, 4):
        file.write_text("from legion_jax.train import recipes\n\n\ndef get_config():\n"
                        "    c = recipes.load('base').get_config()\n"
                        f"    c.batch_size = {size}\n    return c\n")
        os.utime(file, (10**9, 10**9))
        assert config_of(f"--config={file}").batch_size == size
        assert recipes.load(str(file)).get_config().batch_size == size
    assert not sys.dont_write_bytecode


@pytest.mark.parametrize("text, words", [
    ("def get_config():\n    return 1 / 0\n", "mine.py, line 2: ZeroDivisionError: division by"),
    ("x = 1\n", "mine.py: there is no get_config"),
    ("def get_config():\n    return 5\n", "mine.py: get_config.. must return an ml_coll"),
    ("def get_config(:\n", "mine.py: SyntaxError: invalid syntax")])
def test_what_is_wrong_with_a_recipe_is_said_of_its_file(tmp_path, text, words):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(recipes.RecipeError, match=f"--config: {tmp_path}/{words}"):
        config_of(f"--config={tmp_path / 'mine.py'}")


def test_every_recipe_works_where_there_is_no_experiments_folder(tmp_path):
    """As in an installed package: the folder is legion_jax/recipes/."""
    for package in ("legion_jax", "input_pipeline"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copytree(ROOT / "experiments", tmp_path / "legion_jax/recipes")
    script = ("from legion_jax.train import recipes\n"
              "print(*(recipes.load(name).get_config().batch_size for name in recipes.known()))\n"
              "print(recipes.load('sweeps/lora_rank').get_sweep('tiny').base, recipes.__file__)\n")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True,
                          text=True, check=True)
    assert done.stdout.splitlines() == [
        "16 64 256 256 256 160 160 160 160 16 16 16",
        f"tiny {tmp_path}/legion_jax/train/recipes.py"]

"""What a conversion or an export opens: every folder once, and each legion.json once."""

import collections
import pathlib
import sys

import layouts
import published
import pytest

from legion_jax.convert.layout_json import LAYOUT
from legion_jax.convert.tensor_folder import TensorFolder
from legion_jax.predict.predictor import Predictor
from legion_jax.weights.checkpoint import META

sized = layouts.sized
OPENED: list[str] = []  # paths of files, while a test counts them
COUNTING = []


def note_open(event: str, arguments: tuple) -> None:
    if COUNTING and event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])


@pytest.fixture(scope="module", autouse=True)
def hook():
    sys.addaudithook(note_open)  # stays as long as the interpreter, so it is told when to count


@pytest.fixture
def opened():
    """Counts of opened files by path; only what the test itself does counts."""
    OPENED.clear()
    COUNTING.append(True)
    yield lambda name: collections.Counter(
        path for path in OPENED if pathlib.Path(path).name == name)
    COUNTING.clear()


@pytest.fixture(scope="module")
def run(sized, tmp_path_factory):
    """(a converted checkpoint, a run that started from it)."""
    root = tmp_path_factory.mktemp("chain")
    legion, clip = published.make(root / "in", sized)
    layouts.convert(legion, root / "jax", config=sized, clip=clip)
    layouts.trained_run(root / "run", root / "jax")
    return root / "jax", root / "run"


@pytest.mark.parametrize("layout", ["legion", "hf", "adapter"])
def test_an_export_reads_each_legion_json_once(run, tmp_path, opened, layout):
    converted, folder = run
    layouts.write(folder, tmp_path / "out", layout)
    assert opened(META) == {str(f / META): 1 for f in run}
    assert opened(LAYOUT) == {str(converted / "source" / LAYOUT): 1}


def test_a_predictor_reads_each_legion_json_once(run, opened):
    Predictor.from_folder(run[1])
    assert opened(META) == {str(f / META): 1 for f in run}


def test_a_conversion_opens_each_folder_once(run, tmp_path, monkeypatch):
    paths, init = [], TensorFolder.__init__

    def counted(self, path):
        paths.append(path)
        init(self, path)

    monkeypatch.setattr(TensorFolder, "__init__", counted)
    inputs = run[0].parent / "in"
    folders = [str(folder) for folder in inputs.iterdir() if folder.name in ("legion", "clip")]
    from_sam = published.json.loads((inputs / "legion" / "sam_config.json").read_text())
    layouts.convert(inputs / "legion", tmp_path / "out", clip=inputs / "clip", sam_config=from_sam)
    assert sorted(map(str, paths)) == sorted(folders)

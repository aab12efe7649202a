"""Jobs of tools/predict.py: 200 photos, what one run makes of them, and the arguments for more."""

import numpy as np
import pytest
from PIL import Image
from stub_predict import make_checkpoint, run


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "c", config)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """200 small photos, two of them damaged."""
    return save_photos(tmp_path_factory.mktemp("many"), 200)


def save_photos(root, number):
    rng = np.random.default_rng(1)
    for index in range(number):
        height, width = rng.integers(8, 60, 2)
        path = root / f"{index % 7}" / f"p{index:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        if index in (11, 150):
            path.write_bytes(path.read_bytes()[:60])
    return root


def arguments(checkpoint, source, output, *extra):
    """Without overlays, which take most of the time."""
    return (f"--checkpoint={checkpoint}", f"--images={source}", f"--output={output}",
            "--write=json,mask", *extra)


def everything(output, *, without=("job.json",)):
    """{path: content} of all files of an output folder."""
    return {path.relative_to(output).as_posix(): path.read_bytes()
            for path in output.rglob("*") if path.is_file() and path.name not in without}


@pytest.fixture(scope="module")
def unbroken(checkpoint, many, tmp_path_factory):
    root = tmp_path_factory.mktemp("unbroken")
    code, log = run(*arguments(checkpoint, many, root / "out"), log=root / "log")
    assert code == 2, log
    return root / "out"

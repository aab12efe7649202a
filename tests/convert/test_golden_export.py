"""The golden case through every layout: the same parameters come back, and so do its answers."""

import json
import pathlib

import pytest

from legion_jax.convert import from_torch, to_torch
from legion_jax.convert.plan import Options
from legion_jax.weights import checkpoint, params_files, tensor_file
from legion_jax.weights.checkpoint import Checkpoint
from tools.verify_case import __main__ as verify_case


@pytest.fixture(scope="module")
def converted(torch_files, golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden") / "jax"
    sam = json.loads((golden / "sam" / "sam_config.json").read_text())
    from_torch.convert(str(golden / "checkpoint"), str(folder), clip=str(golden / "clip"),
                       head=str(golden / "cls"), options=Options(sam=sam), progress=False)
    return folder


def read_back(exported: pathlib.Path, layout: str, folder: pathlib.Path) -> None:
    """Convert what `export` wrote."""
    parts = {"legion": {"clip": exported / "clip", "head": exported / "head"}, "hf": {}}[layout]
    sam = exported / "sam_config.json"
    options = Options(sam=json.loads(sam.read_text()) if sam.exists() else None)
    from_torch.convert(str(exported), str(folder), options=options, progress=False,
                       **{role: str(path) for role, path in parts.items()})


@pytest.mark.parametrize("layout", ["legion", "hf"])
def test_parameters_come_back_bit_for_bit(converted, tmp_path, layout):
    to_torch.export(str(converted), str(tmp_path / "out"), layout=layout, progress=False)
    read_back(tmp_path / "out", layout, tmp_path / "again")
    before, after = (params_files.Reader(Checkpoint.open(folder))
                     for folder in (converted, tmp_path / "again"))
    assert before.entries.keys() == after.entries.keys()
    for path in before.entries:
        one, two = before.read(path), after.read(path)
        assert (one.shape, one.dtype) == (two.shape, two.dtype), path
        assert tensor_file.raw_bytes(one) == tensor_file.raw_bytes(two), path
    configs = [checkpoint.read_meta(f).config for f in (converted, tmp_path / "again")]
    assert configs[0] == configs[1]


@pytest.mark.slow
def test_exported_folder_reproduces_the_golden_case(full_golden, converted, tmp_path):
    to_torch.export(str(converted), str(tmp_path / "out"), progress=False)
    case = tmp_path / "case"
    case.mkdir()
    for name in full_golden.iterdir():
        if name.name not in ("checkpoint", "clip", "cls"):
            (case / name.name).symlink_to(name.resolve())
    (case / "checkpoint").symlink_to(tmp_path / "out")
    (case / "clip").symlink_to(tmp_path / "out" / "clip")
    (case / "cls").symlink_to(tmp_path / "out" / "head")
    results = verify_case.verify(str(case))
    assert not results.failures, "\n".join(str(row) for row in results.failures)

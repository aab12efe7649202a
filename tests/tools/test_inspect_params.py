"""tools/inspect_params/__main__.py: flags, what is printed and written, and exit codes."""

import json

import commands
import inspected
import pytest
import torch
from inspected import EIGHT, KEY, ONE, sums
from rich.console import Console

from input_pipeline.errors import UserError
from tools.inspect_params import __main__ as inspect_params, inventory, listing

converted, run = inspected.converted, inspected.run


@pytest.mark.parametrize("text", ["1,2", "1,0,1", "1,-1,1", "a,b,c", "1,2,3,4,5", "1,1.5,1", ""])
def test_meshes_that_are_none(text):
    with pytest.raises(UserError, match="--mesh.*for .*data.*, .*fsdp.*, .*tensor"):
        inspect_params.parse_mesh(text)


@pytest.mark.parametrize("given, added, vocab, message", [
    ({}, {}, None, "--checkpoint, --torch, --config: one of them is needed, none is given"),
    ({"checkpoint": "a", "torch": "b"}, {}, None,
     "--checkpoint a and --torch b: only one of them at a time"),
    ({"checkpoint": "a"}, {"clip": "b"}, None, "--clip b: goes with --torch, here is --checkp.* a"),
    ({"torch": "a"}, {}, 7, "--vocab 7: goes with --config, here is --torch a")])
def test_flags_that_do_not_go_together(given, added, vocab, message):
    with pytest.raises(UserError, match=message):
        inspect_params.check_flags(
            {"checkpoint": None, "torch": None, "config": None} | given, added, vocab)


def test_folders_of_another_kind(folders, converted, tmp_path):
    for folder in (folders[0], tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"--checkpoint {folder}: no legion.json there"):
            inspect_params.of_checkpoint(str(folder))
    with pytest.raises(UserError, match=f"--torch {converted}: holds legion.json"):
        inspect_params.of_torch(str(converted))
    (tmp_path / "legion.json").write_text("{")
    with pytest.raises(UserError, match=f"--checkpoint {tmp_path}: .*legion.json"):
        inspect_params.of_checkpoint(str(tmp_path))
    (tmp_path / "legion.json").unlink()
    with pytest.raises(UserError, match=f"--torch {tmp_path} --clip c: .*no weights file"):
        inspect_params.of_torch(str(tmp_path), clip="c")


def test_match(converted):
    listed = inventory.of_checkpoint(converted)
    chosen = inspect_params.select(listed, r"^verdict/.*kernel$")
    assert [p.path for p in chosen] == ["verdict/down/kernel", "verdict/up/kernel"]
    text = listing.as_text(listed, listing.lines_of(chosen, ONE), ONE)
    assert f"--match: 816 of {sums(listed)['total']['parameters']:,} parameters" in text
    for pattern, message in (("(", r"--match: '\(' is no pattern"),
                             ("zz", "--match: 'zz' fits none of 150 paths, such as language/")):
        with pytest.raises(UserError, match=message):
            inspect_params.select(listed, pattern)


def test_terminal_shows_every_path_in_full(run):
    listed = inventory.of_checkpoint(run)
    lines = listing.lines_of(listed.parameters, EIGHT)
    console = Console(width=120, force_terminal=True, color_system=None)
    with console.capture() as capture:
        listing.show(listed, lines, EIGHT, console)
    _, *rows = capture.get().splitlines()  # the title is a line of any length
    assert max(map(len, rows)) <= 120 and "…" not in capture.get()
    firsts = {row.split()[0] for row in rows if row.strip()}
    assert {p.path for p in listed.parameters} <= firsts


def command(*arguments):
    return commands.run_tool("tools.inspect_params", *arguments, timeout=120)


def test_command_on_a_checkpoint_as_tsv(converted, tmp_path):
    done = command("--checkpoint", converted, "--format", "tsv", "--output", tmp_path / "out.tsv",
                   "--mesh", "1,4,2")
    assert done.returncode == 0 and not done.stdout, done.stderr
    header, *rows = [row.split("\t") for row in (tmp_path / "out.tsv").read_text().splitlines()
                     if not row.startswith("#")]
    assert header == list(listing.COLUMNS) and {len(row) for row in rows} == {len(header)}
    listed = inventory.of_checkpoint(converted)
    assert [row[0] for row in rows] == [p.path for p in listed.parameters]
    assert sum(int(row[header.index("bytes_per_device")]) for row in rows) == (
        sums(listed, EIGHT)["total"]["bytes_per_device"])
    assert rows[[row[0] for row in rows].index("language/layers/query/kernel")][1:4] == [
        "3,48,48", "bfloat16", "-,fsdp,tensor"]


def test_command_on_damaged_torch_weights_says_so_in_its_exit_code(folders, tmp_path):
    legion, clip, state = inspected.copy(folders, tmp_path)
    state.pop(KEY)
    torch.save(state, legion / "pytorch_model.bin")
    done = command("--torch", legion, "--clip", clip)
    assert done.returncode == inspect_params.HAS_PROBLEMS, done.stderr
    rows = [row.split() for row in done.stdout.splitlines() if row.strip()]
    assert ["mask_decoder", "39,232", "39,232", "0", "0.000078", "0.000078"] in rows
    assert "…" not in done.stdout and f"problem: {KEY}: missing" in done.stdout


def test_command_on_a_config_of_full_size():
    done = command("--config", "experiments/base.py", "--config.mesh=(1,16,1)", "--format", "json",
                   "--depth", 1)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["mesh"] == {"data": 1, "fsdp": 16, "tensor": 1, "sequence": 1}
    assert printed["trainable_by"] == "config.trainable"
    assert [line["path"] for line in printed["parameters"]] == list(printed["totals"])[:-1]
    assert printed["totals"]["total"]["parameters"] == 7_716_565_734
    failed = command("--config", "experiments/base.py", "--mesh", "1,x,1")
    assert failed.returncode == 1 and failed.stderr == (
        "error: --mesh: positive whole numbers, for data, fsdp, tensor, sequence, not "
        "'1,x,1'\n")

"""tools/aot_report/__main__.py: what is read off compiled text, flags, and one real compile."""

import importlib.util
import json
import os
import pathlib
import sys

import commands
import jax
import pytest
import small_hlo

from experiments import tiny, tiny_sida
from input_pipeline.batches.examples import blank_example
from input_pipeline.errors import UserError
from input_pipeline.text import conversation
from input_pipeline.text.dialogue import DIALOGUES, TOKENIZERS
from input_pipeline.text.tokenizer import train_tokenizer
from input_pipeline.text.tokenizer_files import ADDED_FILE, MODEL_FILE, as_json
from legion_jax import sharding
from tools.aot_report import collectives, costs, hlo, lowering, topologies, topology_table, traffic


def test_a_spread_collective_counts_once():
    module = hlo.parse(small_hlo.SPREAD)
    kinds = collectives.by_kind(collectives.collectives(module, 8))
    gathered, reduced = 8 * 16 * 2, 64 * 4
    assert kinds == {
        "all-gather": {"places": 1, "count": 1, "buffer": gathered, "received": 3 / 4 * gathered},
        "reduce-scatter": {"places": 1, "count": 1, "buffer": reduced,
                           "received": 3 / 4 * reduced}}


def test_a_slice_reads_itself_alone():
    module = hlo.parse(small_hlo.SPREAD)
    exchanges = collectives.collectives(module, 8)
    collected = (8 * 4 + 8 * 16) * 2 + 64 * 4 + 64 * 4  # what both read and write
    row, part = 16 * 2, 16 * 4
    assert traffic.hbm_bytes(module, exchanges) == collected + 2 * row + part


def test_loops_multiply():
    module = hlo.parse(small_hlo.LOOPS)
    exchange, = collectives.collectives(module, 4)
    assert (exchange.kind, exchange.times, exchange.buffer) == ("collective-permute", 5 * 4, 32)
    assert exchange.received == 32 and exchange.hbm == 0  # it stays in vector memory
    times = {run.instruction.name: run.times for run in hlo.executions(module)}
    assert times["loop"] == 1 and times["next"] == 5 and times["more"] == 20
    # "twice" reads two operands and writes one array in each round; counters are 4 bytes.
    assert traffic.hbm_bytes(module, [exchange]) == 5 * (3 * 32 + 3 * 4) + 20 * 3 * 4 + 2 * 4


@pytest.mark.parametrize("attributes, size", [
    ("replica_groups={{0,1},{2,3}}", 2), ("replica_groups=[2,4]<=[8]", 4),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", 2), ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", 8),
    ("replica_groups=mesh['a'=8] {'a':(1)2}", 2), ("replica_groups={}", 16), ("", 16)])
def test_group_sizes(attributes, size):
    assert collectives.group_size(attributes, 16) == size


def test_text_without_a_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("nothing here")


def test_what_a_program_too_large_asked_for():
    refusal = costs.too_large(small_hlo.TOO_LARGE)
    assert refusal["peak"] == int(20.5 * 2 ** 30) and refusal["problem"].endswith("of 15.75G hbm.")
    assert refusal["arrays"] == [
        {"shape": "f32[4,16,4096,4096]", "nbytes": 4 * 2 ** 30, "opcode": "",
         "source": "jit(step)/jvp()/while"},
        {"shape": "bf16[4096,32128]", "nbytes": int(512.5 * 2 ** 20), "opcode": "", "source": ""}]


def test_the_slowest_part_is_the_step():
    times = topologies.roofline(topologies.TPUS["v5e"], flops=197e12, hbm=819e9 / 2, received=0.0)
    assert (times.compute, times.hbm, times.ici) == (1.0, 0.5, 0.0)
    assert times.step == 1.0 and times.bound == "compute"


def test_arrays_are_those_of_a_real_batch(tmp_path):
    config = tiny.get_config()
    config.data.text_length = 220
    tokenizer = train_tokenizer([conversation.build_prompt(config.data.instruction)] * 20, 320,
                                tmp_path / "tokenizer")
    mesh = sharding.make_mesh((1, -1, 1))
    run = lowering.read_run(config, mesh)
    abstract = lowering.batch_arrays(run, mesh)
    real = blank_example(tokenizer, run.examples)
    assert {name: (a.shape[1:], a.dtype) for name, a in abstract.items()} == {
        name: (a.shape, a.dtype) for name, a in real.items()}
    assert {a.shape[0] for a in abstract.values()} == {config.batch_size}


def test_prompts_are_those_of_the_published_vocabulary(golden):
    """Of the pieces of LLaMA, with each dialogue's tokens behind them."""
    model = (golden / "checkpoint" / MODEL_FILE).read_bytes()
    found = {}
    for name, dialogue in DIALOGUES.items():
        kind = TOKENIZERS[dialogue.rules]
        size = kind({MODEL_FILE: model, ADDED_FILE: b"{}"}, name="pieces").vocab_size
        added = {token: size + number for number, token in enumerate(dialogue.tokens)}
        tokenizer = kind({MODEL_FILE: model, ADDED_FILE: as_json(added)}, name=name)
        prompt = conversation.encode_prompt(tokenizer, dialogue.instruction, dialogue=dialogue)
        found[name] = len(prompt), conversation.image_index(prompt)
    assert found == lowering.PROMPTS


def test_a_run_reads_the_prompt_of_its_dialogue():
    config = tiny_sida.get_config()
    run = lowering.read_run(config, sharding.make_mesh((1, 1, 8)))
    assert (run.prompt_ids, run.image_index) == (78, 35)
    config.data.text_length = 36
    with pytest.raises(UserError, match="text_length: the image alone stands at 35, got 36"):
        lowering.read_run(config, sharding.make_mesh((1, 1, 8)))


@pytest.mark.parametrize("mesh, message", [
    ("1,8", "4 sizes for"), ("1,4,1", r"\[1, 4, 1, 1\] needs 4 devices, this run has 8"),
    ("1,8,1,2", "needs 16 devices, this run has 8"), ("1,x,1", "whole numbers for data, fsdp")])
def test_meshes_that_do_not_fit(mesh, message):
    with pytest.raises(UserError, match=f"--mesh.*{message}"):
        lowering.make_mesh(mesh, jax.devices())


def test_meshes_that_fit():
    for text in ("1,8,1", "2,4,1,1", "1,-1,2", "1,2,2,2"):
        assert lowering.make_mesh(text, jax.devices()).size == 8


def test_what_no_topology_is(monkeypatch):
    with pytest.raises(UserError, match="--topology: one of v5e, v5p, v6e and a shape.*'v9:4'"):
        topologies.open_topology("v9:4")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"libtpu.*not installed: pip install -e '\.\[aot\]'"):
        topologies.open_topology("v5e:2x2")


def test_batches_that_do_not_divide():
    config = tiny.get_config()
    config.batch_size = 12
    with pytest.raises(UserError, match="batch_size: 12 rows do not divide .* 8 devices"):
        lowering.read_run(config, sharding.make_mesh((1, -1, 1)))


class Compiled:
    """A program of two operations, compiled by a libtpu that jax cannot read."""

    argument_size_in_bytes, temp_size_in_bytes = 10 * 10 ** 9, 8 * 10 ** 9
    output_size_in_bytes, alias_size_in_bytes, generated_code_size_in_bytes = 4, 4, 1

    def compile(self):
        return self

    def memory_analysis(self):
        return self

    def as_text(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: async-update\nstack")


def test_memory_is_known_where_the_text_is_not():
    program = lowering.Program("train", Compiled(), 16, model_flops=197e12, executed_flops=394e12)
    report = costs.measure(program, topologies.TPUS["v5e"], 4)
    assert report.peak == 18 * 10 ** 9 and not report.fits
    assert report.problem.endswith("bytes are not counted: INTERNAL: async-update")
    assert report.times.step == 2.0 and report.mfu == 0.5


def test_rows_of_the_table():
    row = topology_table.Row("v5e:4x4", "1,16,1", topology_table.LORA, 16)
    program = costs.Report("train", 16, 0, 1e12, 60.0, fits=True, arguments=10 ** 9,
                           temporaries=2 * 10 ** 9, peak=3 * 10 ** 9, executed_flops=2e12,
                           times=topologies.Times(0.5, 0.25, 0.125), mfu=0.4)
    text = topology_table.markdown([
        (row, {"chip": {"hbm": 16e9}, "programs": [costs.as_dict(program)]}),
        (row, {"error": "error: no"})])
    assert "| base | attention | train | 16 | 1.0 | 2.0 | 3.0 | 19 % | 0.0 |" in text
    assert "| 0.50 s | compute | 40 % | 60 s |" in text
    assert text.endswith("| train | 16 | error: no |\n")
    assert all(pathlib.Path(row.config).exists() for row in topology_table.ROWS)


# Apart from the environment: where jax finds it, every start looks for a TPU and says so.
COMPILER = pathlib.Path(sys.prefix) / "libtpu"


def test_a_real_topology_of_two_slices(tmp_path):
    if not COMPILER.is_dir() and importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs the TPU compiler, which `make setup` puts into .venv/libtpu")
    file = tmp_path / "report.json"
    done = commands.run_tool(
        "tools.aot_report", "--config", "experiments/tiny.py", "--topology=2*v5e:2x2",
        "--mesh=2,2,1,2", "--programs=decode", f"--json={file}",
        env=os.environ | {"PYTHONPATH": str(COMPILER)})
    assert done.returncode == 0, done.stderr
    assert ("TPU v5e, topology 2*v5e:2x2, mesh of data 2 x fsdp 2 x tensor 1 x sequence 2"
            in done.stdout)
    program, = json.loads(file.read_text())["programs"]
    assert program["fits"] and 0 < program["arguments"] <= program["peak"] < 16e9
    assert program["collectives"]["all-gather"]["count"] >= tiny.get_config().eval.max_new_tokens

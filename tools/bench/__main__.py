"""How fast LEGION trains and answers, beside the same model made of PyTorch's parts.

    python -m tools.bench

Two pieces of work at a middle size, in float32, on the same cores: an update of the recipe in
experiments/base.py, and captions with masks for a batch of photos. `ours` is the program that
`legion_jax.train` and `legion_jax.predict.predictor` run; `peer` is LLaVA's parts and `SamModel` of
transformers with the same random weights, which answers photo by photo with its key/value cache.
They take turns, and their results are compared: a difference is an error. The floor is the
counted operations at the speed of one large product of matrices. The last line is JSON.

Every answer has the same number of tokens and masks without anybody being told how many
(tools/bench/cases.py says how). Inputs are ready on both sides, bytes on ours and normalised
float32 on the peer's, and nothing is read or decoded. The peer is given what helps it: fused
attention and AdamW, frozen towers outside of the graph, logits at as few positions as ours, no
blocks of CLIP that nobody reads.

--work=batching compares a batch with our own answers one photo at a time, --work=policies the ways
to fill the places of a batch (tools/bench/batching.py); neither has a peer, and both need a CPU.

Where JAX finds a GPU, or with --device=gpu, it is the full size in bfloat16 instead, made on the
device: seconds per update, tokens per second, MFU, memory, the dearest operations, and decoding
against the memory's bandwidth. Each piece of work runs in a process of its own with a time limit:
train, answers, peer_train, peer_answers, and, with --golden=CASE_DIR, that case in float32.
"""

import importlib
import json
import os

import jax
from absl import flags
from rich.console import Console

from input_pipeline.errors import UserError
from legion_jax import command
from legion_jax.display.console import DataConsole
from tools.bench import batching, cases, contest, figures, gpu, gpu_pieces

DIFFERENT = 2  # exit code, also where a piece of work on a GPU is missing
SIDE = 2048  # of the matrices whose product says what the cores can do
WORK = contest.WORK | batching.WORK
INSTALL = "pip install -e '.[bench]'"


def define_flags() -> None:
    flags.DEFINE_enum("device", None, ["cpu", "gpu"], "Where; by default a GPU where JAX has one.")
    flags.DEFINE_integer("rounds", 5, "Turns of each contestant that count.")
    flags.DEFINE_integer("threads", os.cpu_count(), "Cores for both, on a CPU.")
    flags.DEFINE_list("work", None, "What to measure, in this order; by default train, answers.")
    flags.DEFINE_string("golden", None, "A golden case, checked on a GPU after all else.")
    flags.DEFINE_bool("tiny", False, "A model that takes seconds: tries the tool, says nothing.")
    flags.DEFINE_bool("peer", True, "Measure PyTorch beside it, and compare.")
    flags.DEFINE_enum("piece", None, list(gpu.WORK), "For processes of this command: which piece.")
    flags.DEFINE_string("piece_json", None, "For processes of this command: where it goes.")


def check(options) -> None:
    """Raises UserError for values that cannot be measured with."""
    if options.rounds < 1:
        raise UserError(f"--rounds: at least 1, got {options.rounds}")
    cores = len(os.sched_getaffinity(0))
    if not 1 <= options.threads <= cores:
        raise UserError(f"--threads: 1 to {cores}, the cores there are, got {options.threads}")
    if options.work is not None and not options.work:
        raise UserError(f"--work: one of {', '.join(WORK)} at least")
    if bool(options.piece) != bool(options.piece_json):
        raise UserError("--piece and --piece_json: both or none")


def work(options, known: dict, default: list[str]) -> list[str]:
    """The pieces asked for. Raises UserError for one that is not known here."""
    chosen = default if options.work is None else options.work
    if unknown := sorted(set(chosen) - known.keys()):
        raise UserError(f"--work: {', '.join(known)}, not {', '.join(unknown)}")
    return chosen


def use_cores(number: int) -> None:
    """Bind this process to so many of its cores, before JAX counts them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def set_up_peer(threads: int) -> None:
    """Raises UserError without PyTorch or transformers."""
    try:
        import torch

        importlib.import_module("tools.bench.peer")
    except ImportError as error:
        raise UserError(f"--peer: {error}; {INSTALL}, or --nopeer") from error
    torch.set_num_threads(threads)


def use_gpu(device: str | None) -> bool:
    """Whether to measure on a GPU. Raises UserError where one is asked for and there is none."""
    if device == "cpu":
        return False
    backend = jax.default_backend()
    if device == "gpu" and backend != "gpu":
        raise UserError(f"--device=gpu: JAX finds no GPU here, only {backend}")
    return backend == "gpu"


def on_gpu(options, console: Console) -> tuple[dict, bool]:
    """Everything about this GPU, shown piece by piece, and whether no piece is missing or wrong."""
    kind, case = jax.devices()[0].device_kind, cases.TINY if options.tiny else cases.FULL
    chip = gpu.find(kind)
    if options.piece:
        gpu_pieces.measure_one(options.piece, options.piece_json, case, chip, options.rounds)
        return {}, True
    default = [name for name in gpu.WORK if options.peer or not name.startswith("peer")]
    default += ["golden"] if options.golden else []
    chosen = work(options, gpu_pieces.LIMITS, default)
    if "golden" in chosen and not options.golden:
        raise UserError("--work=golden: --golden=CASE_DIR says which case")
    figures.show_chip(kind, chip, console)
    result = gpu_pieces.run_all(
        chosen, [f"--rounds={options.rounds}", f"--threads={options.threads}",
                 f"--tiny={options.tiny}"], golden=options.golden, console=console)
    return {"case": case.name, "device": kind, "rounds": options.rounds,
            "peak": {"flops": chip.flops, "hbm_rate": chip.hbm_rate}} | result, not any(
                "missing" in piece or piece.get("failed") for piece in result.values())


def measure(case: cases.Case, *, work: list[str], rounds: int, threads: int, peer: bool,
            console: Console) -> dict:
    """Everything this command finds out on a CPU, as JSON; each piece is shown when it is done."""
    result = {"case": case.name, "device": "cpu", "threads": threads, "rounds": rounds,
              "load": [os.getloadavg()[0]],
              "product": contest.product_peak(SIDE, rounds=rounds, peer=peer)}
    figures.show_machine(result, console)
    params = cases.random_params(case)
    for name in work:
        result[name] = WORK[name](case, params, rounds=rounds, peer=peer)
        result["load"].append(os.getloadavg()[0])
        figures.show_work(name, result, console)
    return result


def main() -> int:
    """Measures, prints tables and one line of JSON; exit code."""
    options, console = flags.FLAGS, DataConsole()
    check(options)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peer needs memory too
    if options.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    use_cores(options.threads)
    if use_gpu(options.device):
        result, good = on_gpu(options, console)
    else:
        if options.piece or options.golden:
            raise UserError("--piece, --golden: on a GPU only")
        chosen = work(options, WORK, ["train", "answers"])
        if options.peer:
            set_up_peer(options.threads)
        result = measure(cases.TINY if options.tiny else cases.MID, work=chosen,
                         rounds=options.rounds, threads=options.threads, peer=options.peer,
                         console=console)
        good = all(result[name].get("check", {"same": True})["same"] for name in chosen)
    if result:
        print(json.dumps(figures.rounded(result)))
    return 0 if good else DIFFERENT


if __name__ == "__main__":
    define_flags()
    command.run(main)

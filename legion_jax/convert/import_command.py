"""The command that converts PyTorch weights, or checks a conversion against its sources."""

import jax
from absl import flags
from etils import epath

from input_pipeline.errors import UserError
from legion_jax import command
from legion_jax.convert import from_torch
from legion_jax.convert.family import LEGION, SYSTEMS
from legion_jax.convert.names import CLS_TOWER
from legion_jax.convert.plan import Options
from legion_jax.weights.checkpoint_error import read_json

flags.disclaim_key_flags()  # --help of whatever command calls `main` lists them

# Flag -> what it names; a conversion takes them all, --verify none of them.
FOLDERS = {
    "checkpoint": "Folder or file with the language model: LEGION, GLaMM, LLaVA, the state of a "
                  "training, or what export_to_torch wrote.",
    "clip": "Folder of the CLIP vision tower.",
    "sam": "Original SAM .pth, or a SamModel folder.",
    "head": "File or folder with prediction_head.*, if apart.",
    "adapter": "PEFT LoRA folder on top of the checkpoint."}
SMALL_FILES = {
    "tokenizer": "Its folder, if not the checkpoint's.",
    "config": "config.json, if not with the checkpoint.",
    "sam_config": "JSON with decoder_num_heads, for a SAM other than the published one; "
                  "sam_config.json of the checkpoint folder is used when it is there."}


def describe(summary: from_torch.Summary, output: str, *, checkpoint: str,
             clip: str | None) -> None:
    """Print what a conversion made."""
    print(f"{output}: {summary.parameters:,} parameters; {len(summary.carried)} tensors that "
          f"LEGION never runs are carried through unchanged")
    carried = [*summary.carried, *summary.unknown]
    if inside := sum(map(bool, map(CLS_TOWER.to_published, carried))):
        print(f"{clip} is the vision tower; the one inside {checkpoint} ({inside} "
              f"tensors) is carried through unused")
    if summary.unknown:
        print(f"carried through although nothing is known of them: {', '.join(summary.unknown)}")
    if summary.config.lora.rank:
        lora = summary.config.lora
        print(f"LoRA of rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}, kept "
              f"apart from its kernels")
    if summary.nonfinite:
        print(f"NaN or infinite values in {', '.join(summary.nonfinite)}")
    if summary.absent:
        print(f"not there: {', '.join(summary.absent)}; training can start them anew")
    if summary.config.classes:
        print(f"a {summary.system}, whose verdict is one of {', '.join(summary.config.classes)}")
    elif summary.system == LEGION.name:
        print("no prediction_head.* found: this model gives no verdict (see --head)")
    else:
        print(f"a {summary.system}, which gives no verdict")


def check(output: str) -> int:
    """Print what differs from the sources. Returns the exit code."""
    problems = from_torch.verify(output)
    for problem in problems:
        print(problem)
    print(f"{output}: " + (f"{len(problems)} places differ" if problems else
                           "equal to its sources, bit for bit"))
    return 1 if problems else 0


def convert(values: dict, output: str) -> None:
    """Convert as the flags, {name: value}, say, and describe the result."""
    folders = {name: values[name] for name in FOLDERS}
    main, clip = folders.pop("checkpoint"), values["clip"]
    if not main:
        raise UserError("--checkpoint: needed, unless --verify is given")
    beside = epath.Path(main) / "sam_config.json"
    sam = values["sam_config"] or (beside if beside.exists() else None)
    options = Options(sam=read_json(epath.Path(sam)) if sam else None, **{
        name: values[name] for name in ("tokenizer", "config", "lora_alpha", "merge_lora",
                                        "partial", "allow_nonfinite", "system")})
    summary = from_torch.convert(main, output, **folders, options=options)
    describe(summary, output, checkpoint=main, clip=clip)


def main() -> None:
    """Convert or check as the command line says."""
    output = flags.DEFINE_string("output", None, "New folder for the converted checkpoint.")
    others = [flags.DEFINE_string(name, None, text) for name, text in
              (FOLDERS | SMALL_FILES).items()]
    others += [
        flags.DEFINE_enum("system", None, [*SYSTEMS], "What the weights are to become, if not the "
                          "system they are; it gets the tokens that it lacks."),
        flags.DEFINE_float("lora_alpha", Options.lora_alpha,
                           "Of unmerged LoRA without an adapter_config.json."),
        flags.DEFINE_bool("merge_lora", False, "Fold LoRA into its kernels, in float32."),
        flags.DEFINE_bool("partial", False, "Convert though towers are missing."),
        flags.DEFINE_bool("allow_nonfinite", False, "Accept NaN and infinite values.")]
    verify = flags.DEFINE_bool("verify", False, "Compare OUTPUT with the files it came from.")
    flags.mark_flags_as_required(["output"])

    def run() -> int | None:
        jax.config.update("jax_platforms", "cpu")  # file work; leave accelerators alone
        if not verify.value:
            return convert({flag.name: flag.value for flag in others}, output.value)
        if given := [f"--{flag.name}" for flag in others if flag.present]:
            raise UserError(f"{', '.join(given)}: --verify reads the files that OUTPUT was "
                            f"converted from, wherever they were; name only --output")
        return check(output.value)

    command.run(run)

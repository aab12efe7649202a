"""Convert PyTorch weights, or check a conversion against the files it came from.

    python -m tools.convert_from_torch --checkpoint DIR --clip DIR --output DIR
    python -m tools.convert_from_torch --verify --output DIR

The layout is recognised by the names of the tensors. OUTPUT/params holds every parameter in the
dtype of its file, OUTPUT/tokenizer the tokenizer and OUTPUT/source what `tools.export_to_torch`
needs to write the PyTorch folders back.
"""

import pathlib

import jax
from absl import flags

from input_pipeline.errors import UserError
from legion_jax import command
from legion_jax.convert import from_torch, verify
from legion_jax.convert.names import CLS_TOWER
from legion_jax.convert.plan import Options
from legion_jax.convert.tensor_folder import read_json


def describe(summary: from_torch.Summary, output: str, *, checkpoint: str,
             clip: str | None) -> None:
    """What a conversion found, for the terminal."""
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
    if not summary.config.verdict_classes:
        print("no prediction_head.* found: this model gives no verdict (see --head)")


def check(output: str) -> int:
    """Print what differs from the sources; the exit code."""
    problems = verify.verify(output)
    for problem in problems:
        print(problem)
    print(f"{output}: " + (f"{len(problems)} places differ" if problems else
                           "equal to its sources, bit for bit"))
    return 1 if problems else 0


if __name__ == "__main__":
    CHECKPOINT = flags.DEFINE_string(
        "checkpoint", None, "Folder or file with the language model: LEGION, GLaMM, LLaVA, the "
        "state of a training, or what export_to_torch wrote.")
    OUTPUT = flags.DEFINE_string("output", None, "New folder for the converted checkpoint.")
    CLIP = flags.DEFINE_string("clip", None, "Folder of the CLIP vision tower.")
    SAM = flags.DEFINE_string("sam", None, "Original SAM .pth, or a SamModel folder.")
    HEAD = flags.DEFINE_string("head", None, "File or folder with prediction_head.*, if apart.")
    ADAPTER = flags.DEFINE_string("adapter", None, "PEFT LoRA folder on top of the checkpoint.")
    TOKENIZER = flags.DEFINE_string("tokenizer", None, "Its folder, if not the checkpoint's.")
    CONFIG = flags.DEFINE_string("config", None, "config.json, if not with the checkpoint.")
    SAM_CONFIG = flags.DEFINE_string(
        "sam_config", None, "JSON with decoder_num_heads, for a SAM other than the published one; "
        "sam_config.json of the checkpoint folder is used when it is there.")
    LORA_ALPHA = flags.DEFINE_float("lora_alpha", Options.lora_alpha,
                                    "Of unmerged LoRA without an adapter_config.json.")
    MERGE_LORA = flags.DEFINE_bool("merge_lora", False, "Fold LoRA into its kernels, in float32.")
    PARTIAL = flags.DEFINE_bool("partial", False, "Convert though towers are missing.")
    ALLOW_NONFINITE = flags.DEFINE_bool("allow_nonfinite", False, "Accept NaN and infinite values.")
    VERIFY = flags.DEFINE_bool("verify", False, "Compare OUTPUT with the files it came from.")

    OTHERS = (CHECKPOINT, CLIP, SAM, HEAD, ADAPTER, TOKENIZER, CONFIG, SAM_CONFIG, LORA_ALPHA,
              MERGE_LORA, PARTIAL, ALLOW_NONFINITE)

    def main() -> int | None:
        jax.config.update("jax_platforms", "cpu")  # file work; leave accelerators alone
        if VERIFY.value:
            if given := [f"--{f.name}" for f in OTHERS if f.present]:
                raise UserError(f"{', '.join(given)}: --verify reads the files that OUTPUT was "
                                f"converted from, wherever they were; name only --output")
            return check(OUTPUT.value)
        if not CHECKPOINT.value:
            raise UserError("--checkpoint: needed, unless --verify is given")
        beside = pathlib.Path(CHECKPOINT.value) / "sam_config.json"
        sam = SAM_CONFIG.value or (beside if beside.exists() else None)
        options = Options(
            tokenizer=TOKENIZER.value, config=CONFIG.value, lora_alpha=LORA_ALPHA.value,
            sam=read_json(pathlib.Path(sam)) if sam else None, merge_lora=MERGE_LORA.value,
            partial=PARTIAL.value, allow_nonfinite=ALLOW_NONFINITE.value)
        describe(from_torch.convert(CHECKPOINT.value, OUTPUT.value, clip=CLIP.value, sam=SAM.value,
                                    head=HEAD.value, adapter=ADAPTER.value, options=options),
                 OUTPUT.value, checkpoint=CHECKPOINT.value, clip=CLIP.value)
        return None

    flags.mark_flags_as_required(["output"])
    command.run(main)

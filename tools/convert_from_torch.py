"""Convert a published PyTorch checkpoint.

    python -m tools.convert_from_torch --checkpoint DIR --clip DIR --output DIR

OUTPUT/params holds every parameter in the dtype of its file, OUTPUT/tokenizer the tokenizer and
OUTPUT/source what `tools.export_to_torch` needs to write the PyTorch folders back.
"""

import pathlib

import jax
from absl import flags

from legion_jax import command
from legion_jax.convert import load
from legion_jax.convert.source import read_json

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "LEGION or GLaMM folder (.bin, safetensors).")
CLIP = flags.DEFINE_string("clip", None, "Folder of the CLIP vision tower.")
OUTPUT = flags.DEFINE_string("output", None, "New folder for the converted checkpoint.")
HEAD = flags.DEFINE_string("head", None, "File or folder with prediction_head.*, if apart.")
SAM_CONFIG = flags.DEFINE_string(
    "sam_config", None, "JSON with decoder_num_heads, for a SAM other than the published one; "
    "sam_config.json of the checkpoint folder is used when it is there.")


def main() -> None:
    jax.config.update("jax_platforms", "cpu")  # file work; leave accelerators alone
    beside = pathlib.Path(CHECKPOINT.value) / "sam_config.json"
    sam = SAM_CONFIG.value or (beside if beside.exists() else None)
    summary = load.convert(CHECKPOINT.value, CLIP.value, OUTPUT.value, head=HEAD.value,
                           sam=read_json(pathlib.Path(sam)) if sam else None)
    print(f"{OUTPUT.value}: {summary.parameters:,} parameters; {len(summary.carried)} tensors that "
          f"LEGION never runs are carried through unchanged")
    if summary.unknown:
        print(f"carried through although nothing is known of them: {', '.join(summary.unknown)}")
    if not summary.config.verdict_classes:
        print("no prediction_head.* found: this model gives no verdict (see --head)")


if __name__ == "__main__":
    flags.mark_flags_as_required(["checkpoint", "clip", "output"])
    command.run(main)

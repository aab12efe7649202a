"""Write random weights in the published layout, for trying conversion at full size.

    python -m tools.make_random_checkpoint --size legion_7b --output DIR

A development tool. OUTPUT is a LEGION folder as the published one is cut (bfloat16 `.bin` shards
and an index), OUTPUT/clip the vision tower. Every value is random and finite; nothing here can
answer a question.
"""

import ml_dtypes
import numpy as np
from absl import flags

from input_pipeline import files
from input_pipeline.text import tokenizer_files
from input_pipeline.text.tokenizer import ADDED_TOKENS, Tokenizer
from legion_jax import command, config
from legion_jax.config import LegionConfig
from legion_jax.convert.config_files import published_configs
from legion_jax.convert.model_folder import ModelFolder
from legion_jax.convert.names import unused_prompts
from legion_jax.convert.origin import Tensor, split_tower
from legion_jax.convert.table import rules
from legion_jax.models import param_tree

SIZES = {"legion_7b": config.legion_7b, "tiny": lambda: config.tiny(vocab=519)}


def random_values(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Random sign and mantissa, magnitudes from 2^-7 to 2^-3: fast, finite in every dtype."""
    bits = np.frombuffer(np.random.default_rng(seed).bytes(2 * int(np.prod(shape))), np.uint16)
    values = ((bits & 0x81FF) | 0x3C00).view(ml_dtypes.bfloat16).reshape(shape)
    return values if dtype == "bfloat16" else values.astype(dtype)


def published_shapes(config: LegionConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every unmodelled tensor of a published LEGION checkpoint of this size."""
    return _rotary(config) | unused_prompts(config) | _region_encoder(config)


def _rotary(config):
    half = config.language.head_width // 2
    return {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": (half,)
            for i in range(config.language.layers)}


def _region_encoder(config):
    """GLaMM's region-of-interest branch on CLIP width C and language width D."""
    C, D, side, levels = config.vision.width, config.language.width, 14, 4
    quarter = C // 4
    fuse, roi = "model.region_encoder.mlvl_fuse.", "model.region_encoder.roi_align."
    shapes = {}
    for i in range(levels):
        shapes |= _with_bias(f"{fuse}input_conv.{i}", (C, C + 2, 1, 1))
        shapes |= _with_bias(f"{roi}pconvs.{i}", (C, C, 3, 3))
    for i in range(5):
        shapes[f"{fuse}fuse_convs.{i}.conv.weight"] = (C, C, 3, 3)
        shapes |= _with_bias(f"{fuse}fuse_convs.{i}.gn", (C,))
    for number, shape in ((0, (quarter, 4)), (2, (quarter,)), (3, (C, quarter)), (5, (C,))):
        shapes |= _with_bias(f"{roi}pos_embedd.{number}", shape)
    shapes |= _with_bias(f"{roi}updims", (D, C))
    shapes |= _with_bias(f"{roi}flatten_linear", (C, C * side * side))
    return shapes


def _with_bias(key, shape):
    return {f"{key}.weight": shape, f"{key}.bias": shape[:1]}


def shapes(model: LegionConfig) -> dict[str, tuple[int, ...]]:
    """{published name: shape} of everything in the two folders, unused tensors included."""
    abstract = param_tree.abstract_params(model)
    every = published_shapes(model)
    for rule in rules(model):
        shape = rule.layout.torch_shape(tuple(abstract[rule.path].shape[rule.keys.ndim:]))
        every |= {key: shape for key in rule.keys.ravel()}
    first = "vision_model.encoder.layers.0."
    for number in range(model.vision.depth, model.vision.layers):
        every |= {key.replace(first, f"vision_model.encoder.layers.{number}."): shape
                for key, shape in list(every.items()) if key.startswith(first)}
    norm = "vision_model.post_layernorm."
    return every | {f"{norm}weight": (model.vision.width,), f"{norm}bias": (model.vision.width,)}


def random_tokenizer(vocab: int) -> Tokenizer:
    """A tokenizer of `vocab` tokens whose pieces spell nothing in particular."""
    from sentencepiece import sentencepiece_model_pb2 as proto
    model = proto.ModelProto()
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    kinds = proto.ModelProto.SentencePiece
    pieces = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    pieces += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    number = vocab - len(ADDED_TOKENS) - len(pieces)
    pieces += [(chr(0x4E00 + i) if i < 20000 else f"\u2581{i}", kinds.NORMAL)
               for i in range(number)]
    for rank, (piece, kind) in enumerate(pieces):
        model.pieces.add(piece=piece, score=-float(rank), type=kind)
    added = {token: len(pieces) + rank for rank, token in enumerate(ADDED_TOKENS)}
    content = {tokenizer_files.MODEL_FILE: model.SerializeToString(),
               tokenizer_files.ADDED_FILE: tokenizer_files.as_json(added),
               **tokenizer_files.llama_settings()}
    tokenizer = Tokenizer(content, name="random tokenizer")
    tokenizer.check()
    return tokenizer


def make_files(model: LegionConfig, *, dtype: str, file_format: str, seed: int) -> ModelFolder:
    """Both folders with random values, to be written."""
    tensors = {}
    for number, (name, shape) in enumerate(sorted(shapes(model).items())):
        def read(shape=shape, number=number):
            return random_values(shape, dtype, seed + number)
        tensors[name] = Tensor(shape, dtype, read, number)
    folder, configs = ModelFolder(), published_configs(model, dtype)
    tower, legion = split_tower(tensors)
    folder.add_model("", legion, file_format=file_format)
    folder.add_model("clip/", tower, file_format=file_format)
    folder.add_small("", configs["legion"] | random_tokenizer(model.language.vocab).files)
    folder.add_small("clip/", configs["clip"])
    return folder


def main() -> None:
    """Write what the command line asks for."""
    size = flags.DEFINE_enum("size", "legion_7b", list(SIZES), "Which model.")
    output = flags.DEFINE_string("output", None, "New folder.")
    file_format = flags.DEFINE_enum("format", "bin", ["bin", "safetensors"], "Weights files.")
    dtype = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float16", "float32"],
                              "Of the weights.")
    seed = flags.DEFINE_integer("seed", 0, "Of the values.")
    flags.mark_flags_as_required(["output"])

    def run() -> None:
        written = make_files(SIZES[size.value](), dtype=dtype.value,
                             file_format=file_format.value, seed=seed.value)
        with files.new_folder(output.value, last="config.json") as folder:
            written.write(folder, progress=True)
        for file, tensors in written.weights.items():
            print(f"{output.value}/{file}: {len(tensors)} tensors")

    command.run(run)


if __name__ == "__main__":
    main()

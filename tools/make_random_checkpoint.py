"""Write random weights in the published layout, for trying conversion at full size.

    python -m tools.make_random_checkpoint --size legion_7b --output DIR

A development tool. OUTPUT is a LEGION or SIDA folder as the published ones are cut (bfloat16 `.bin`
shards and an index) with the vision tower in OUTPUT/clip, or a FakeVLM, which has it inside. Every
value is random and finite; nothing here can answer a question.
"""

import json
from collections.abc import Sequence

import ml_dtypes
import numpy as np
from absl import flags

from input_pipeline import files
from input_pipeline.text import tokenizer_files
from input_pipeline.text.fast_tokenizer import FAST_FILE, NORMALIZER, PAD_TOKEN, FastTokenizer
from input_pipeline.text.tokenizer import IMAGE_TOKEN, Tokenizer
from legion_jax import command, config
from legion_jax.config import TOKEN, LegionConfig
from legion_jax.convert import family
from legion_jax.convert.config_files import llava_files, processor_files, published_configs
from legion_jax.convert.model_folder import ModelFolder
from legion_jax.convert.names import LISA, LLAVA_OLD, PUBLISHED, unused_prompts
from legion_jax.convert.origin import Tensor, split_tower
from legion_jax.convert.table import rules
from legion_jax.models import param_tree

TINY = 519  # tokens, of any of them
SIZES = config.PUBLISHED | config.TINY


def random_values(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Random sign and mantissa, magnitudes from 2^-7 to 2^-3: fast, finite in every dtype."""
    bits = np.frombuffer(np.random.default_rng(seed).bytes(2 * int(np.prod(shape))), np.uint16)
    values = ((bits & 0x81FF) | 0x3C00).view(ml_dtypes.bfloat16).reshape(shape)
    return values if dtype == "bfloat16" else values.astype(dtype)


def published_shapes(config: LegionConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every unmodelled tensor of a published checkpoint of this size.

    A LLaVA's vision tower apart, which `shapes` completes.
    """
    if config.sam is None:
        return {}
    region = {} if config.projector == "linear" else _region_encoder(config)
    return _rotary(config) | unused_prompts(config) | region


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


def random_tokenizer(vocab: int, tokens: Sequence[str]) -> Tokenizer:
    """A tokenizer of `vocab` tokens whose pieces spell nothing in particular; `tokens` come last.
    """
    from sentencepiece import sentencepiece_model_pb2 as proto
    model = proto.ModelProto()
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    kinds = proto.ModelProto.SentencePiece
    pieces = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    pieces += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    number = vocab - len(tokens) - len(pieces)
    pieces += [(chr(0x4E00 + i) if i < 20000 else f"\u2581{i}", kinds.NORMAL)
               for i in range(number)]
    for rank, (piece, kind) in enumerate(pieces):
        model.pieces.add(piece=piece, score=-float(rank), type=kind)
    added = {token: len(pieces) + rank for rank, token in enumerate(tokens)}
    content = {tokenizer_files.MODEL_FILE: model.SerializeToString(),
               tokenizer_files.ADDED_FILE: tokenizer_files.as_json(added),
               **tokenizer_files.llama_settings()}
    if PAD_TOKEN not in added:
        return Tokenizer(content, name="random tokenizer")
    content |= {name: tokenizer_files.as_json(json.loads(content[name]) | {"pad_token": PAD_TOKEN})
                for name in tokenizer_files.CARRIED_FILES}
    return FastTokenizer(content | {FAST_FILE: fast_file([name for name, _ in pieces], added)},
                         name="random tokenizer")


def fast_file(pieces: Sequence[str], added: dict[str, int]) -> bytes:
    """tokenizer.json of these pieces, without the merges that would join them."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    control = {piece: index for index, piece in enumerate(pieces[:3])}
    begin = {"SpecialToken": {"id": pieces[1], "type_id": 0}}
    texts = [[begin, {"Sequence": {"id": name, "type_id": number}}]
             for number, name in enumerate("AB")]
    return (json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "pre_tokenizer": None,
        "normalizer": NORMALIZER,
        "post_processor": {
            "type": "TemplateProcessing", "single": texts[0], "pair": [*texts[0], *texts[1]],
            "special_tokens": {pieces[1]: {"id": pieces[1], "ids": [1], "tokens": [pieces[1]]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "added_tokens": [{"id": index, "content": token, "special": True} | flags
                         for token, index in (control | added).items()],
        "model": {"type": "BPE", "dropout": None, "unk_token": pieces[0], "fuse_unk": True,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "byte_fallback": True, "ignore_merges": False, "merges": [],
                  "vocab": {piece: index for index, piece in enumerate(pieces)}}}) + "\n").encode()


def make_files(model: LegionConfig, *, dtype: str, file_format: str, seed: int) -> ModelFolder:
    """All folders with random values, to be written."""
    tensors = {}
    for number, (name, shape) in enumerate(sorted(shapes(model).items())):
        def read(shape=shape, number=number):
            return random_values(shape, dtype, seed + number)
        tensors[name] = Tensor(shape, dtype, read, number)
    folder = ModelFolder()
    if model.sam is None:
        _add_llava(folder, model, tensors, dtype=dtype, file_format=file_format)
        return folder
    table, system = (LISA, family.SIDA) if model.verdict_source == TOKEN else (
        PUBLISHED, family.LEGION)
    configs, (tower, rest) = published_configs(model, dtype), split_tower(tensors)
    folder.add_model("", {table.from_published(name): t for name, t in rest.items()},
                     file_format=file_format)
    folder.add_model("clip/", tower, file_format=file_format)
    tokenizer = random_tokenizer(model.language.vocab, system.tokens)
    tokenizer.check(system.dialogue.tokens, dialogue=system.dialogue.name)
    folder.add_small("", configs["legion"] | tokenizer.files)
    folder.add_small("clip/", configs["clip"])
    return folder


def _add_llava(folder: ModelFolder, model: LegionConfig, tensors: dict[str, Tensor], *, dtype: str,
               file_format: str) -> None:
    """A FakeVLM, every row of whose vocabulary is a token."""
    dialogue, rows = family.FAKEVLM.dialogue, model.language.vocab
    tokenizer = random_tokenizer(rows, dialogue.tokens)
    tokenizer.check(dialogue.tokens, dialogue=dialogue.name)
    folder.add_model("", {LLAVA_OLD.from_published(name): t for name, t in tensors.items()},
                     file_format=file_format)
    folder.add_small("", processor_files(model) | tokenizer.files | llava_files(
        model, blocks=model.vision.layers, rows=rows, image_token=tokenizer.added[IMAGE_TOKEN],
        pad_token=tokenizer.pad_id, dtype=dtype, says_image=True))


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
        written = make_files(config.named(size.value, TINY, "--size"), dtype=dtype.value,
                             file_format=file_format.value, seed=seed.value)
        with files.new_folder(output.value, last="config.json") as folder:
            written.write(folder, progress=True)
        for file, tensors in written.weights.items():
            print(f"{output.value}/{file}: {len(tensors)} tensors")

    command.run(run)


if __name__ == "__main__":
    main()

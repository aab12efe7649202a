"""The layout of Hugging Face: a LLaVA folder, a SamModel folder, and the heads between them.

A model that draws no masks and judges in words is a LLaVA and nothing else.
"""

import dataclasses
import json

import numpy as np

from input_pipeline.text.conversation import encode_prompt, image_index
from input_pipeline.text.fast_tokenizer import PAD_TOKEN
from input_pipeline.text.tokenizer import IMAGE_TOKEN, Tokenizer
from input_pipeline.text.tokenizer_files import ADDED_FILE, as_json
from legion_jax.convert import config_files, names
from legion_jax.convert.model_card import llava_card, model_card
from legion_jax.convert.model_folder import ModelFolder
from legion_jax.convert.origin import Origin, Tensor, Values, constant, split_tower
from legion_jax.convert.table import SAM
from legion_jax.weights.checkpoint_error import CheckpointError

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
BUFFERS = ("rotary_emb.inv_freq", "position_ids")  # transformers computes them
PROMPT = "prompt_ids.json"
TEMPLATES = (config_files.CHAT_TEMPLATE, "chat_template.jinja")
HEADS = ("model.text_hidden_fcs.", "prediction_head.")


def hf_layout(origin: Origin) -> ModelFolder:
    """All files of the export; towers that the checkpoint lacks are left out.

    Raises CheckpointError for a model that is no LLaVA of transformers.
    """
    if origin.opened.meta.config.projector == "linear":
        raise CheckpointError(f"{origin.opened.folder}: its projector is one layer, that of "
                              f"transformers' LLaVA is two; --layout legion writes this model")
    if origin.opened.meta.config.sam is None:
        return llava_alone(Values(origin))
    meta, tokenizer = origin.opened.meta, origin.opened.tokenizer
    config, vocabulary = meta.config, origin.first.meta.vocabulary
    if "verdict" in meta.absent:
        config = dataclasses.replace(config, verdict=None)
    if vocabulary and vocabulary.image_token is not None:
        rows, image_token = vocabulary.rows, vocabulary.image_token
    else:
        rows = config.language.vocab
        image_token = tokenizer.added.get(IMAGE_TOKEN, rows)
    values = Values(origin, rows=rows)
    tower, rest = _tensors(values)
    own_row = image_token == rows
    if own_row:
        rows += 1
        rest |= {name: _one_row_more(rest[name]) for name in VOCABULARY}
    written = ModelFolder()
    llava = _spelled(names.LLAVA_OLD, tower | values.post_norm(tower) | rest)
    written.add_model("llava/", llava, file_format="safetensors", shard_bytes=5 * 10 ** 9)
    written.add_small("llava/", config_files.llava_files(
        config, blocks=_blocks(tower), rows=rows, image_token=image_token,
        dtype=values.main_dtype()))
    written.small[f"llava/{ADDED_FILE}"] = as_json(
        tokenizer.added | {IMAGE_TOKEN: tokenizer.added.get(IMAGE_TOKEN, image_token)})
    masks = f"{SAM}mask_decoder.iou_token.weight" in rest
    if masks:
        sam = _unused_prompts(values) | {
            name: t for name, t in rest.items() if name.startswith(SAM)}
        written.add_model("sam/", _spelled(names.sam_hf(config.sam.iou_layers), sam),
                          file_format="safetensors")
        written.add_small("sam/", config_files.sam_files(config))
    if heads := {name: t for name, t in rest.items() if name.startswith(HEADS)}:
        written.weights["legion_heads.safetensors"] = heads
    written.small[PROMPT] = _prompt_ids(tokenizer, image_token, config.vision.num_patches)
    written.small["README.md"] = model_card(
        config, image_token=image_token, seg_token=tokenizer.seg_id, own_row=own_row,
        sam=masks, masks=masks and any(name.startswith(HEADS[0]) for name in heads))
    return written


def llava_alone(values: Values, *, file_format: str = "safetensors") -> ModelFolder:
    """A FakeVLM, or another LLaVA, as the folder that transformers opens."""
    origin, config = values.origin, values.config
    tower, rest = _tensors(values)
    tokenizer = origin.opened.tokenizer
    ids = tokenizer.ids_of((IMAGE_TOKEN, PAD_TOKEN))
    written = ModelFolder()
    written.add_model("", _spelled(names.LLAVA_OLD, tower | values.post_norm(tower) | rest),
                      file_format=file_format, shard_bytes=5 * 10 ** 9)
    written.add_small("", config_files.llava_files(
        config, blocks=_blocks(tower), rows=config.language.vocab, image_token=ids[IMAGE_TOKEN],
        pad_token=ids[PAD_TOKEN], dtype=values.main_dtype(), says_image=True))
    came = origin.small_files("main")
    templates = {name: came[name] for name in TEMPLATES if name in came}
    processor = config_files.processor_files(config)
    if templates:
        processor.pop(config_files.CHAT_TEMPLATE)
    written.add_small("", processor | templates)
    written.small["README.md"] = llava_card(
        config, image_token=ids[IMAGE_TOKEN], question=origin.opened.dialogue.instruction)
    return written


def _tensors(values: Values) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(CLIP's, all others), those too that the model does not hold. Raises CheckpointError."""
    tower, rest = split_tower(values.tensors | {
        name: t for name, t in values.published_carried().items() if name not in values.tensors})
    if not tower or VOCABULARY[0] not in rest:
        raise CheckpointError(f"{values.origin.opened.folder}: a LLaVA folder needs CLIP, "
                              f"projector and language model; not there: "
                              f"{', '.join(values.origin.opened.meta.absent)}")
    return tower, rest


def _blocks(tower: dict[str, Tensor]) -> int:
    return 1 + max(int(name.split(".")[3]) for name in tower if ".encoder.layers." in name)


def _spelled(table: names.Spelling, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors this layout has a place for, under its names; buffers are left out."""
    return {name: t for published, t in tensors.items()
            if (name := table.from_published(published)) is not None
            and not published.endswith(BUFFERS)}


def _prompt_ids(tokenizer: Tokenizer, image_token: int, patches: int) -> bytes:
    """The prompt's ids as a JSON list, `<image>` as many times as the tower has patches."""
    ids = encode_prompt(tokenizer).tolist()
    index = image_index(ids)
    return (json.dumps(ids[:index] + [image_token] * patches + ids[index + 1:]) + "\n").encode()


def _one_row_more(tensor: Tensor) -> Tensor:
    """A vocabulary matrix with a row of zeros for `<image>`."""
    def read():
        value = tensor.read()
        return np.concatenate([value, np.zeros((1, *value.shape[1:]), value.dtype)])

    return dataclasses.replace(tensor, shape=(tensor.shape[0] + 1, *tensor.shape[1:]), read=read)


def _unused_prompts(values: Values) -> dict[str, Tensor]:
    """SAM's point and mask prompts, zero: `SamModel` has them, LEGION never runs them."""
    return {name: constant(shape, "float32", 0)
            for name, shape in names.unused_prompts(values.config).items()}

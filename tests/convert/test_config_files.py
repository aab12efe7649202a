"""convert/config_files.py and model_card.py: what transformers computes from these files."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import torch
import transformers
from flax import nnx
from random_models import QUICK_COMPILE
from torch_side import assert_close

from input_pipeline.photos.images import clip_image, sam_image
from legion_jax.config import LegionConfig, LoraConfig
from legion_jax.convert import config_files, model_card
from legion_jax.convert.names import LLAVA_OLD, SAM_HF
from legion_jax.convert.table import rules
from legion_jax.models import clip, param_tree, sam_encoder
from legion_jax.models.layers import numerics
from legion_jax.models.legion import Legion, token_slots

IMAGE_INDEX, SEG = 3, 90
SEGS = (6, 9)  # places of [SEG]
HEADS = ("model.text_hidden_fcs.", "prediction_head.")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def sized(config):
    """Norms whose epsilon shows, an uncommon base of the rotary tables, no LoRA."""
    language = dataclasses.replace(config.language, norm_eps=0.01, rope_base=500.0)
    tower = dataclasses.replace(config.vision, norm_eps=0.01)
    return dataclasses.replace(config, language=language, vision=tower, lora=LoraConfig())


@pytest.fixture(scope="module")
def tensors(sized):
    """Random tensors, small enough that no attention is all or nothing."""
    out = published.random_tensors(sized, "float32")
    out["vision_model.post_layernorm.bias"] = out["vision_model.post_layernorm.weight"]
    return {k: v if "gaussian_matrix" in k else np.float32(0.3) * v for k, v in out.items()}


def filled(config: LegionConfig, tensors: dict) -> Legion:
    """Our model with these published tensors."""
    graph, params = nnx.split(param_tree.abstract_model(config))
    shapes = {p: a.shape for p, a in param_tree.flatten(nnx.to_pure_dict(params)).items()}
    flat = {}
    for rule in rules(config):
        arrays = [rule.layout.to_jax(tensors[key]) for key in rule.keys.ravel()]
        flat[rule.path] = jnp.asarray(np.stack(arrays).reshape(shapes[rule.path]))
    assert flat.keys() == shapes.keys()
    return param_tree.merge(graph, param_tree.unflatten(flat))


def write(folder, config: LegionConfig, tensors: dict, *, table=LLAVA_OLD,
          blocks: int | None = None):
    """An export of `tensors`, with one more row for `<image>`."""
    blocks = blocks or config.vision.layers
    skipped = tuple(f"vision_model.encoder.layers.{i}."
                    for i in range(blocks, config.vision.layers))
    parts = {"llava": {}, "sam": {}}
    for key, value in tensors.items():
        if key.startswith(skipped) or key.endswith("inv_freq"):
            continue
        if key in ("model.embed_tokens.weight", "lm_head.weight"):
            value = np.concatenate([value, np.zeros_like(value[:1])])
        for part, names in (("llava", table), ("sam", SAM_HF)):
            if (name := names.from_published(key)) is not None:
                parts[part][name] = value
    vocab = config.language.vocab
    files = {"llava": config_files.llava_files(config, blocks=blocks, rows=vocab + 1,
                                               image_token=vocab, dtype="float32"),
             "sam": config_files.sam_files(config)}
    for part, state in parts.items():
        (folder / part).mkdir(parents=True)
        published.save(folder / part / "model.safetensors", state)
        for name, content in files[part].items():
            (folder / part / name).write_bytes(content)
    published.save(folder / "legion_heads.safetensors",
                   {k: v for k, v in tensors.items() if k.startswith(HEADS)})
    return folder


@pytest.fixture(scope="module")
def folder(sized, tensors, tmp_path_factory):
    return write(tmp_path_factory.mktemp("export"), sized, tensors)


def code_of(card: bytes) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", card.decode(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    return blocks[0]


@pytest.fixture(scope="module")
def photo(sized):
    rng, c, s = np.random.default_rng(0), sized.vision.image_size, sized.sam.image_size
    return {"clip": rng.integers(0, 256, (1, c, c, 3), np.uint8),
            "sam": rng.integers(0, 256, (1, s, s, 3), np.uint8),
            "size": np.array([[s, s - 20]]),
            "ids": np.concatenate([rng.integers(3, 80, (1, 14)), [[5, 5]]], axis=1)}


def ids_of(photo, image_id: int, copies: int) -> np.ndarray:
    ids = photo["ids"].copy()
    ids[0, list(SEGS)] = SEG
    image = np.full((1, copies), image_id)
    return np.concatenate([ids[:, :IMAGE_INDEX], image, ids[:, IMAGE_INDEX + 1:]], axis=1)


@pytest.fixture(scope="module")
def names_of_torch(sized, photo):
    """What the code of the card expects to be set."""
    def channels_first(x):
        return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)

    ids = ids_of(photo, sized.language.vocab, sized.vision.num_patches)
    return {"input_ids": torch.from_numpy(ids),
            "clip_pixels": channels_first(clip.normalize(photo["clip"])),
            "sam_pixels": channels_first(sam_encoder.normalize(photo["sam"], photo["size"]))}


@pytest.fixture(scope="module")
def expected(sized, tensors, photo):
    ids = jnp.asarray(ids_of(photo, -200, 1))

    def forward(legion):
        seen = legion.see(photo["clip"])
        embeddings = legion.embed(ids, seen, IMAGE_INDEX)
        states = legion.read(embeddings, jnp.ones(embeddings.shape[:2], bool))
        positions, _, _ = token_slots(ids, SEG, len(SEGS), sized.vision.num_patches)
        prompts = legion.prompt(states[jnp.arange(1)[:, None], positions])
        masks, _ = legion.draw(legion.ground(photo["sam"], photo["size"]), prompts)
        logits = legion.language.logits(states)[..., :sized.language.vocab]
        return {"language_logits": logits, "mask_logits": masks[0],
                "verdict_logits": legion.judge(seen.summary)}

    with numerics(sized):
        return jax.jit(forward, compiler_options=QUICK_COMPILE)(filled(sized, tensors))


def run(code: str, folder, names: dict) -> dict:
    space = {"folder": str(folder), **names}
    exec(compile(code, "README.md", "exec"), space)
    return space


def card(config, masks: bool = True) -> bytes:
    return model_card.model_card(config, image_token=config.language.vocab, seg_token=SEG,
                                 sam=masks, masks=masks)


def test_code_of_the_card_computes_what_our_model_does(sized, folder, names_of_torch, expected):
    space = run(code_of(card(sized)), folder, names_of_torch)
    vocab = sized.language.vocab
    assert_close(expected["language_logits"], space["language_logits"][..., :vocab], TOLERANCE)
    assert (space["language_logits"][..., vocab:] == 0).all()
    assert_close(expected["mask_logits"], space["mask_logits"], TOLERANCE)
    assert_close(expected["verdict_logits"], space["verdict_logits"], TOLERANCE)
    assert space["verdict"].keys() == {"tampered", "real"}
    masks = np.asarray(expected["mask_logits"])
    assert masks.std() > 0.1 * np.abs(masks).max() and np.abs(masks[0] - masks[1]).max() > 0.01


@pytest.mark.parametrize("select_layer, blocks", [(-2, 2), (1, 3), (-1, 3)])
def test_selected_block(sized, tensors, tmp_path, names_of_torch, photo, select_layer, blocks):
    """With and without the blocks after it; -1 is the last state before CLIP's own norm."""
    config = dataclasses.replace(sized, vision=dataclasses.replace(
        sized.vision, select_layer=select_layer))
    write(tmp_path, config, tensors, blocks=blocks)
    space = run(code_of(card(config, masks=False)), tmp_path, names_of_torch)
    ours = filled(config, tensors)
    assert_close(ours.judge(ours.see(photo["clip"]).summary), space["verdict_logits"], TOLERANCE)


@pytest.mark.parametrize("kind, part", [(transformers.LlavaForConditionalGeneration, "llava"),
                                        (transformers.SamModel, "sam")])
def test_no_tensor_is_missing_or_left_over(folder, kind, part):
    _, report = kind.from_pretrained(folder / part, output_loading_info=True)
    assert not any(report.values()), report


def test_configs_as_transformers_reads_them(sized, folder):
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder / "llava")
    read, generation, vocab = model.config, model.generation_config, sized.language.vocab
    assert read.image_token_id == read.image_token_index == vocab
    assert read.image_seq_length == sized.vision.num_patches
    assert read.text_config.rope_parameters["rope_theta"] == 500
    assert read.text_config.max_position_embeddings == sized.language.max_positions
    assert not read.tie_word_embeddings and not read.text_config.tie_word_embeddings
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 0)
    assert generation.suppress_tokens == [vocab] and not generation.do_sample
    sam = transformers.SamModel.from_pretrained(folder / "sam").config
    assert sam.mask_decoder_config.layer_norm_eps == 1e-5


def test_image_row_is_never_generated(sized, folder, names_of_torch):
    """Its score of 0 would win over rows that all score below it."""
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder / "llava")
    inputs = dict(input_ids=names_of_torch["input_ids"], pixel_values=names_of_torch["clip_pixels"])
    with torch.no_grad():
        last = model.model(**inputs).last_hidden_state[0, -1]
        model.lm_head.weight[:sized.language.vocab] = -last
    ids = model.generate(**inputs, max_new_tokens=1)
    assert ids[0, -1] != sized.language.vocab


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_of_the_weights(sized, dtype):
    files = config_files.llava_files(sized, blocks=3, rows=98, image_token=97, dtype=dtype)
    read = transformers.LlavaConfig.from_dict(json.loads(files["config.json"]))
    for part in (read, read.text_config, read.vision_config):
        assert part.dtype in (dtype, getattr(torch, dtype))


def test_image_processors_give_our_pixels(sized, folder):
    image = np.random.default_rng(1).integers(0, 256, (90, 75, 3), np.uint8)
    c, s = sized.vision.image_size, sized.sam.image_size
    theirs = transformers.AutoImageProcessor.from_pretrained(folder / "llava")(
        image, return_tensors="np")["pixel_values"]
    assert_close(clip.normalize(clip_image(image, c)[None]), theirs.transpose(0, 2, 3, 1), 1e-6)
    theirs = transformers.AutoImageProcessor.from_pretrained(folder / "sam")(
        image, return_tensors="np")["pixel_values"]
    canvas, size = sam_image(image, s, s)
    ours = sam_encoder.normalize(canvas[None], np.array([size]))
    assert_close(ours, theirs.transpose(0, 2, 3, 1), 1e-5)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("classes", [("tampered", "real"), ()])
def test_card_names_only_what_is_there(sized, folder, names_of_torch, masks, classes):
    verdict = dataclasses.replace(sized.verdict, classes=classes) if classes else None
    config = dataclasses.replace(sized, verdict=verdict)
    text = card(config, masks).decode()
    assert ("SamModel" in text) == ("`sam/`" in text) == ("text_hidden_fcs" in text) == masks
    assert ("prediction_head" in text) == ("tampered" in text) == bool(classes)
    assert ("legion_heads" in text) == (masks or bool(classes))
    assert max(map(len, code_of(text.encode()).splitlines())) <= 100
    space = run(code_of(text.encode()), folder, names_of_torch)
    assert ("mask_logits" in space, "verdict" in space) == (masks, bool(classes))


def test_card_tells_of_rounded_positions(sized):
    assert "bfloat16" not in card(sized).decode()
    rounded = dataclasses.replace(sized, position_dtype="bfloat16")
    assert "bfloat16" in card(rounded).decode()

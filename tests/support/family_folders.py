"""FakeVLM and SIDA folders of any tensors, in every spelling, format and dtype."""

import json
import pathlib

import numpy as np
import published

from input_pipeline.text.tokenizer import IMAGE_TOKEN, Tokenizer
from legion_jax.config import LegionConfig
from legion_jax.convert.config_files import llava_files, processor_files, published_configs
from legion_jax.convert.family import FAKEVLM, SIDA
from legion_jax.convert.names import LISA, LLAVA_OLD, Spelling
from tools.make_random_checkpoint import random_tokenizer, shapes

# What a config.json may leave out, and the value it then has: of LLaMA, of LISA, of CLIP.
TEXT = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "hidden_act": "silu",
        "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": False, "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
VISION = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_channels": 3,
          "projection_dim": 768}


def random_tensors(config: LegionConfig, *, seed: int = 0) -> dict[str, np.ndarray]:
    """{published name: float32 array} of everything in the folders of a model."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32)
            for name, shape in sorted(shapes(config).items())}


def spelled(tensors: dict[str, np.ndarray], table: Spelling) -> dict[str, np.ndarray]:
    return {table.from_published(name): value for name, value in tensors.items()}


def fakevlm(folder: pathlib.Path, config: LegionConfig, tensors: dict[str, np.ndarray], *,
            table: Spelling = LLAVA_OLD, suffix: str = ".safetensors", shards: int = 1,
            spare: int = 0, short: bool = False) -> Tokenizer:
    """A LLaVA folder; the last `spare` rows of its vocabulary belong to no token.

    `short`: its config.json leaves out what may be left out.
    """
    rows = config.language.vocab
    tokenizer = random_tokenizer(rows - spare, FAKEVLM.dialogue.tokens)
    files = tokenizer.files | processor_files(config) | llava_files(
        config, blocks=config.vision.layers, rows=rows, dtype="float32", says_image=True,
        image_token=tokenizer.added[IMAGE_TOKEN], pad_token=tokenizer.pad_id)
    if short:
        files["config.json"] = shortened(files["config.json"])
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    published.save_shards(folder, spelled(tensors, table), suffix=suffix, shards=shards)
    return tokenizer


def sida(root: pathlib.Path, config: LegionConfig, tensors: dict[str, np.ndarray], *,
         suffix: str = ".bin", shards: int = 1, tokens: tuple[str, ...] = SIDA.tokens,
         short: bool = False) -> tuple[pathlib.Path, pathlib.Path]:
    """Folders root/sida, without sam_config.json, and root/clip; returns both."""
    main, clip = root / "sida", root / "clip"
    files = published_configs(config)
    del files["legion"]["sam_config.json"]
    if short:
        files["legion"]["config.json"] = shortened(files["legion"]["config.json"])
    tokenizer = random_tokenizer(config.language.vocab, tokens)
    for folder, contents in ((main, files["legion"] | tokenizer.files), (clip, files["clip"])):
        folder.mkdir(parents=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    tower = {name: v for name, v in tensors.items() if name.startswith("vision_model.")}
    published.save_shards(clip, tower, suffix=suffix, shards=1)
    published.save_shards(main, spelled(
        {name: v for name, v in tensors.items() if name not in tower}, LISA), suffix=suffix,
        shards=shards)
    return main, clip


def shortened(content: bytes) -> bytes:
    """A config.json without what has its usual value."""
    config = json.loads(content)
    parts = [(config.get("text_config", config), TEXT), (config.get("vision_config", {}), VISION)]
    for part, usual in parts:
        for name, value in usual.items():
            if name in part and part[name] == value:
                del part[name]
    for name in ("num_key_value_heads", "head_dim", "image_token_id", "verdict_classes"):
        for part, _ in [(config, None), *parts]:
            part.pop(name, None)
    return json.dumps(config).encode()

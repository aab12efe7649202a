"""Conversions and exports of damaged folders: `python damage_run.py FOLDER SEED NUMBER`.

Every damaged folder is either refused by name, with nothing left behind, or gives what an
independent reader finds in it.
"""

import dataclasses
import faulthandler
import functools
import json
import os
import pathlib
import random
import resource
import shutil
import sys
import traceback

import family_folders
import numpy as np
import safetensors.torch
import torch
from damage import damage
from damage_check import check_converted, check_exported
from damage_formats import MARKER
from published import TEXTS, make, save

from input_pipeline.errors import UserError
from input_pipeline.text.tokenizer import train_tokenizer
from legion_jax.config import (
    ClipConfig,
    LanguageConfig,
    LegionConfig,
    LoraConfig,
    SamConfig,
    VerdictConfig,
)
from legion_jax.convert import from_torch, lora, to_torch
from legion_jax.convert.plan import Options
from legion_jax.convert.table import SAM
from legion_jax.models import param_tree
from legion_jax.weights.checkpoint_error import read_json

SECONDS = 20  # for one folder
MEMORY = 12 << 30  # addresses; files may have a 32nd of it
CONFIG = LegionConfig(
    vision=ClipConfig(image_size=8, patch=4, width=8, mlp=8, heads=2, layers=2),
    language=LanguageConfig(vocab=97, width=8, mlp=16, heads=2, layers=2, max_positions=64),
    sam=SamConfig(image_size=16, patch=4, width=8, mlp=16, heads=2, layers=2, window=2,
                  global_blocks=(1,), prompt_width=16, mask_channels=4, decoder_layers=1,
                  decoder_heads=2, decoder_mlp=8, iou_hidden=8),
    verdict=VerdictConfig(classes=("tampered", "real"), hidden=8), dtype="float32", remat="none")
OTHER_LANGUAGE = dataclasses.replace(CONFIG.language, vocab=272)  # bytes and some tokens
FAKEVLM = dataclasses.replace(CONFIG, language=OTHER_LANGUAGE, sam=None,
                              verdict=VerdictConfig("words", ("real", "fake"), hidden=0))
SIDA = dataclasses.replace(
    CONFIG, language=OTHER_LANGUAGE, projector="linear", fusion=True,
    verdict=VerdictConfig("token", ("real", "synthetic", "tampered"), hidden=8))


def convert(root: pathlib.Path, output: pathlib.Path, **roles: str) -> None:
    """As tools.convert_from_torch does it."""
    folders = {role: str(root / name) for role, name in roles.items()}
    sam = root / roles["main"] / "sam_config.json"
    sizes = {"decoder_num_heads": SIDA.sam.decoder_heads} if roles["main"] == "sida" else None
    options = Options(sam=read_json(sam) if sam.exists() else sizes)
    main = folders.pop("main")
    from_torch.convert(main, str(output), **folders, options=options, progress=False)


# What a conversion of a folder is given.
PARTS = {"plain": {"main": "legion", "clip": "clip"}, "hf": {"main": "out"},
         "adapter": {"main": "legion", "clip": "clip", "adapter": "adapter"},
         "parts": {"main": "legion", "clip": "clip", "sam": "sam.pth", "head": "head.safetensors"},
         "fakevlm": {"main": "llava"}, "sida": {"main": "sida", "clip": "clip"}}
# {folder: its entry of PARTS, or for a converted checkpoint the layout it is exported in}
CASES = {"bin": "plain", "shards": "plain", "single": "plain", "half": "plain", "hf": "hf",
         "adapter": "adapter", "parts": "parts", "fakevlm": "fakevlm", "sida": "sida",
         "back": "legion", "back as hf": "hf", "back as adapter": "adapter",
         "back of fakevlm": "legion", "back of fakevlm as hf": "hf", "back of sida": "legion"}
SOURCES = {"back": "bin", "back as hf": "shards", "back as adapter": "adapter",
           "back of fakevlm": "fakevlm", "back of fakevlm as hf": "fakevlm", "back of sida": "sida"}


def build(base: pathlib.Path) -> None:
    """One undamaged folder for each of CASES."""
    language = dataclasses.replace(
        CONFIG.language, vocab=train_tokenizer(TEXTS, 290, base / "probe").vocab_size)
    config = dataclasses.replace(CONFIG, language=language)
    make_folder = functools.partial(make, config=config)
    for name, dtype, suffix, shards in (
            ("bin", "bfloat16", ".bin", 2), ("shards", "float32", ".safetensors", 3),
            ("single", "bfloat16", ".safetensors", 1), ("half", "float16", ".bin", 1),
            ("parts", "float32", ".bin", 1), ("adapter", "float32", ".safetensors", 1)):
        make_folder(base / name, dtype=dtype, suffix=suffix, shards=shards)
    _split(base / "parts")
    _adapt(base / "adapter", config)
    family_folders.fakevlm(base / "fakevlm" / "llava", FAKEVLM,
                           family_folders.random_tensors(FAKEVLM), spare=3, shards=2)
    family_folders.sida(base / "sida", SIDA, family_folders.random_tensors(SIDA), shards=2)
    for case, source in SOURCES.items():
        shutil.copytree(base / source, base / f"{case} source")
        convert(base / f"{case} source", base / case / "jax", **PARTS[CASES[source]])
    to_torch.export(str(base / "back as hf" / "jax"), str(base / "hf" / "out"), layout="hf",
                    progress=False)


def _split(root):
    file = root / "legion" / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    sam = {k.removeprefix(SAM): v for k, v in state.items() if k.startswith(SAM)}
    head = {k: v for k, v in state.items() if k.startswith("prediction_head.")}
    torch.save(sam, root / "sam.pth")
    safetensors.torch.save_file(head, root / "head.safetensors")
    torch.save({k: v for k, v in state.items() if not k.startswith((SAM, "prediction_head."))},
               file)


def _adapt(root, config):
    rng, width, prefix = np.random.default_rng(5), config.language.width, "base_model.model."
    tensors = {f"{prefix}model.layers.{i}.self_attn.{n}_proj.lora_{f}.weight":
               rng.normal(size=shape).astype(np.float32)
               for i in range(config.language.layers) for n in "qv"
               for f, shape in (("A", (2, width)), ("B", (width, 2)))}
    embed = rng.normal(size=(config.language.vocab, width)).astype(np.float32)
    folder = root / "adapter"
    folder.mkdir()
    save(folder / "adapter_model.safetensors",
         tensors | {f"{prefix}model.embed_tokens.weight": embed})
    save(folder / "trained_modules.safetensors",
         {"model.text_hidden_fcs.0.0.bias": rng.normal(size=width).astype(np.float32)})
    (folder / "adapter_config.json").write_text(json.dumps(lora.config_file(
        LoraConfig(rank=2), base="legion", layers="model.layers.", modules=["embed_tokens"])))


def snapshot(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*")
            if not p.is_dir() or p.is_symlink()}


def check_message(message: str, root: pathlib.Path) -> None:
    """One short line that names a file, a tensor or a field."""
    assert len(message.splitlines()) == 1 and len(message) < 600, f"no short line: {message!r}"
    known = [str(root), ascii(str(root))[1:-1], "config.json", "model.", "lm_head", "a.weight",
             "prediction_head", "clip: ", "language: ", "sam: "]
    assert any(name in message for name in known), f"names nothing: {message!r}"


def attempt(case: str, work: pathlib.Path, root: pathlib.Path) -> str:
    """Convert or export `root` to work/place/out.

    Returns "done", or the message of a refusal. Raises AssertionError for a result that is wrong,
    a message that does not help, or anything left behind or written elsewhere.
    """
    before, target = snapshot(work), work / "place"
    is_export = case.startswith("back")
    try:
        if is_export:
            to_torch.export(str(root / "jax"), str(target / "out"), layout=CASES[case],
                            progress=False)
        else:
            convert(root, target / "out", **PARTS[CASES[case]])
    except (UserError, OSError) as error:
        assert snapshot(work) == before and not list(target.iterdir()), "left something behind"
        check_message(str(error), root)
        return f"{type(error).__name__}: {error}"
    elsewhere = {n: s for n, s in snapshot(work).items() if not n.startswith(f"{target}/out/")}
    assert elsewhere == before, "wrote elsewhere"
    assert os.listdir(target) == ["out"]
    if is_export:
        check_exported(root, target / "out", CASES[case])
    else:
        check_converted(root, target / "out", PARTS[CASES[case]])
    return "done"


def one(base: pathlib.Path, seed: int, turn: int) -> bool:
    """Damage one folder and try it; prints both, and whether it FAILED."""
    rng = random.Random(f"{seed} {turn}")
    case, work = rng.choice(list(CASES)), base / f"work {seed} {turn}"
    root = work / "in put"
    (work / "place").mkdir(parents=True)
    shutil.copytree(base / case, root)
    os.chdir(work)
    done = damage(rng, root)
    if rng.random() < 0.03:
        root = root.rename(work / "in\udcff")
    print(f"{seed} {turn} {case}: {done!a}", flush=True)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        result = attempt(case, work, root)
        assert not (work / MARKER).exists(), "a payload ran"
    except Exception as error:  # whatever it is, the next one is tried
        traceback.print_exc(file=sys.stdout)
        result = f"FAILED {type(error).__name__}: {str(error)[:600]}"
    faulthandler.cancel_dump_traceback_later()
    print(f"    -> {result!a}", flush=True)
    os.chdir(base)
    shutil.rmtree(work)
    return result.startswith("FAILED")


def batch(base: pathlib.Path, seed: int, number: int) -> int:
    """How many of a seed's damaged folders fail."""
    param_tree.abstract_params = functools.cache(param_tree.abstract_params)  # a second each
    resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (MEMORY >> 5,))
    resource.setrlimit(resource.RLIMIT_AS, 2 * (MEMORY,))
    return sum(one(base, seed, turn) for turn in range(number))


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1]).resolve()
    if sys.argv[2:] == ["build"]:
        build(folder)
    else:
        sys.exit(bool(batch(folder, *map(int, sys.argv[2:]))))

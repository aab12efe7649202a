"""A checkpoint or a training run -> PyTorch folders, whole or not there at all."""

import pathlib
import re

from input_pipeline import files, strict_json
from input_pipeline.text.tokenizer import Tokenizer
from legion_jax.config import TOKEN, LegionConfig
from legion_jax.convert import lora, to_hf
from legion_jax.convert.config_files import published_configs
from legion_jax.convert.layout_json import RecordedFolder
from legion_jax.convert.model_folder import WEIGHTS, ModelFolder, encode
from legion_jax.convert.names import LISA, LLAVA_NEW, PUBLISHED, Spelling, is_llava
from legion_jax.convert.origin import Origin, Tensor, Values, split_tower
from legion_jax.convert.plan import EMBEDDING
from legion_jax.convert.roles import ADDED
from legion_jax.convert.table import rules
from legion_jax.convert.weight_sets import MODULES
from legion_jax.weights.checkpoint import NEWEST, Checkpoint, find_step
from legion_jax.weights.checkpoint_error import CheckpointError

LAYOUTS = ("legion", "hf", "adapter")
# Modules PEFT itself can put back, by the name it knows them by.
SAVED = {"embed_tokens": "model.embed_tokens.", "lm_head": "lm_head."}
PREFIX = "base_model.model."
CONFIG = "config.json"


def export(folder: str, output: str, *, layout: str = "legion", file_format: str | None = None,
           step: str = NEWEST, progress: bool = True) -> dict[str, int]:
    """Write `output` in one of `LAYOUTS`.

    * legion: the published layout, LoRA merged in float32. Weights that came in this layout go
      back to the files, names and dtypes they came from, an adapter's into those of its base;
      others are laid out as the published ones are, with the vision tower in `output`/clip.
    * hf: folders that transformers opens (`to_hf`); of a FakeVLM `output` itself is one.
    * adapter: LoRA for PEFT and the fully trained modules (`adapter_layout`).

    Args:
        folder: converted checkpoint or training run.
        output: new folder.
        step: of a run, as of `checkpoint.find_step`.
        file_format: "bin" or "safetensors", for layout legion; None is the format the weights came
            in, "bin" for weights that came in another layout.

    Returns:
        {weights file: number of tensors}.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"layout: {', '.join(LAYOUTS)}, not {layout!r}")
    if file_format not in (None, *WEIGHTS):
        raise CheckpointError(f"file_format: {', '.join(WEIGHTS)}, not {file_format!r}")
    if layout != "legion" and file_format == "bin":
        raise CheckpointError(f"layout {layout} is always safetensors; --format bin is for legion")
    opened = Checkpoint.open(folder, step=find_step(folder, step))
    inside = "llava/" if layout == "hf" and opened.meta.config.sam else ""
    # Of a folder in a bucket: the file that readers look for first.
    last = lora.CONFIG if layout == "adapter" else f"{inside}{CONFIG}"
    with files.new_folder(output, last=last) as building:
        origin = Origin.read(opened)
        if layout == "legion":
            written = legion_layout(Values(origin), file_format)
        elif layout == "hf":
            written = to_hf.hf_layout(origin)
        else:
            written = adapter_layout(origin)
        for name, content in _tokenizer(opened).files.items():
            written.small.setdefault(f"{inside}{name}", content)
        written.write(building, progress=progress)
    return {file: len(tensors) for file, tensors in written.weights.items()}


def _tokenizer(opened: Checkpoint) -> Tokenizer:
    """The checkpoint's tokenizer. Raises TokenizerError, or CheckpointError naming both sizes."""
    vocab, tokens = opened.meta.config.language.vocab, opened.tokenizer.vocab_size
    if tokens > vocab or (tokens < vocab and opened.tokenizer.rules == "slow"):
        raise CheckpointError(f"{opened.folder}/tokenizer: {tokens} tokens, the model has {vocab}")
    return opened.tokenizer


def legion_layout(values: Values, file_format: str | None) -> ModelFolder:
    """The published layout; as it came, if it came so and every tensor has a place there."""
    base = {role: folder for role, folder in values.origin.roles.items() if role not in ADDED}
    main = base.get("main")
    recorded = {t.published for folder in base.values() for t in folder.tensors.values()}
    # A LLaVA is how a FakeVLM is published, and what a LEGION is begun from.
    if main and not (is_llava(main.spelling) and values.config.sam) and (
            values.tensors.keys() <= recorded
            and all(t.published in values.tensors or f"main/{key}" in values.carried
                    for key, t in main.tensors.items())):  # LoRA and PEFT's copies
        return _as_it_came(values, base, file_format)
    came = {pathlib.PurePath(file).suffix for file in main.files} if main else set()
    return _anew(values, file_format or ("safetensors" if came == {".safetensors"} else "bin"))


def _as_it_came(values: Values, roles: dict[str, RecordedFolder],
                file_format: str | None) -> ModelFolder:
    written = ModelFolder()
    for role, recorded in roles.items():
        renamed = {file: in_format(file, file_format) for file in recorded.files}
        if len(set(renamed.values())) < len(renamed):
            raise CheckpointError(f"{role}: {', '.join(renamed)} would have the same names as "
                                  f"{file_format}; leave --format out")
        folder = "" if role == "main" else f"{role}/"
        for file in recorded.files:
            written.weights[folder + renamed[file]] = {
                key: values.tensors.get(t.published) or values.carried[f"{role}/{key}"]
                for key, t in recorded.tensors.items() if t.file == file}
        if index := recorded.index:
            weight_map = {key: renamed[file] for key, file in index["weight_map"].items()}
            written.small[folder + in_format(recorded.index_name, file_format)] = encode(
                index | {"weight_map": weight_map})
        written.add_small(folder, values.origin.small_files(role))
    return _with_vocabulary(written, values.config.language.vocab, roles["main"])


def _with_vocabulary(written: ModelFolder, vocab: int, main: RecordedFolder) -> ModelFolder:
    """With `vocab_size` as it is now, where tokens have got rows since the weights came."""
    before = next((t.shape[0] for t in main.tensors.values() if t.published == EMBEDDING), vocab)
    if vocab != before and CONFIG in written.small:
        config = strict_json.parse(written.small[CONFIG], CONFIG, error=CheckpointError)
        text = config["text_config"] if "text_config" in config else config
        text["vocab_size"] = vocab
        written.small[CONFIG] = encode(config)
    return written


def in_format(file: str, file_format: str | None) -> str:
    """Name of a weights file, or of its index, in another format; its own where that is its own.

    >>> in_format("pytorch_model-00001-of-00002.bin", "safetensors")
    'model-00001-of-00002.safetensors'
    """
    name, dot, index = file.partition(".index.json")
    if file_format is None or name.endswith(".safetensors") == (file_format == "safetensors"):
        return file
    stem, _ = name.rsplit(".", 1)
    old, new = (WEIGHTS[f].split(".")[0] for f in ("bin", "safetensors"))
    if file_format == "bin":
        old, new = new, old
    if re.fullmatch(rf"{old}(-\d+-of-\d+)?", stem):
        stem = stem.replace(old, new, 1)
    return f"{stem}.{file_format}{dot}{index}"


def _anew(values: Values, file_format: str) -> ModelFolder:
    if values.config.sam is None:
        return to_hf.llava_alone(values, file_format=file_format)
    written, table = ModelFolder(), _spelling(values.origin, values.config)
    tensors, own = dict(values.tensors), set()
    if values.origin.spelling == table.name:
        own = {t.published for t in values.origin.roles["main"].tensors.values()}
    for name, tensor in values.published_carried().items():
        if name in own or table.from_published(name) or name.startswith("vision_model."):
            tensors.setdefault(name, tensor)
    tower, rest = split_tower(tensors)
    configs = published_configs(values.config, values.main_dtype())
    written.add_model("", {table.from_published(name) or name: t for name, t in rest.items()},
                      file_format=file_format)
    written.add_small("", configs["legion"])
    if tower:
        written.add_model("clip/", tower | values.post_norm(tower), file_format=file_format)
        written.add_small("clip/", configs["clip"])
    return written


def _spelling(origin: Origin, config: LegionConfig) -> Spelling:
    """The names of a model that draws masks: as it came, or as its system is published."""
    return LISA if origin.spelling == LISA.name or config.verdict_source == TOKEN else PUBLISHED


def adapter_layout(origin: Origin) -> ModelFolder:
    """LoRA as a PEFT folder for the base model, with the modules that were trained whole.

    LoRA, embedding and language head go where `peft.PeftModel.from_pretrained` looks for them: in
    `LlavaForConditionalGeneration` of transformers 4.52 or newer if the weights came as a LLaVA,
    else in a language model with names `model.layers...`, as LEGION's. Everything else that was
    trained goes to `trained_modules.safetensors` under published names, or LISA's.
    """
    first = origin.first.meta
    table, rows = _spelling(origin, origin.opened.meta.config), None
    if is_llava(origin.spelling):
        table, rows = LLAVA_NEW, first.vocabulary and first.vocabulary.rows
    values = Values(origin, merge=False, rows=rows)
    if not values.config.lora.rank:
        raise CheckpointError(f"{origin.opened.folder}: no LoRA in it (rank 0); layout legion "
                              f"holds all its weights")
    trained = _trained(values)
    factors = {name: t for name, t in values.tensors.items() if ".lora_" in name}
    saved = {name: t for name, t in trained.items() if name.startswith(tuple(SAVED.values()))}
    written = ModelFolder()
    written.weights["adapter_model.safetensors"] = {
        PREFIX + table.from_published(name): t for name, t in (factors | saved).items()}
    if rest := {name: t for name, t in trained.items() if name not in saved | factors}:
        written.weights[MODULES] = {
            LISA.from_published(name) if table is LISA else name: t for name, t in rest.items()}
    written.small[lora.CONFIG] = encode(lora.config_file(
        values.config.lora, base=first.sources.get("main", {}).get("path", ""),
        layers=table.from_published("model.layers.0")[:-1],
        modules=[module for module, root in SAVED.items()
                 if any(name.startswith(root) for name in saved)]))
    return written


def _trained(values: Values) -> dict[str, Tensor]:
    """Tensors that differ from the base: of training, or of the adapter this was converted from."""
    runs = values.origin.opened.chain[:-1]
    paths = {path for run in runs for path in run.meta.trained}
    names = {key for rule in rules(values.config) if rule.path in paths
             for key in rule.keys.ravel()}
    names |= {t.published for role, folder in values.origin.roles.items() if role in ADDED
              for t in folder.tensors.values()}
    return {name: t for name, t in values.tensors.items() if name in names}

"""LoRA as a PEFT folder, with the modules that were trained whole."""

from etils import epath

from legion_jax.convert import lora as lora_lib, origin
from legion_jax.convert.model_folder import Files, encode
from legion_jax.convert.names import LLAVA_NEW, PUBLISHED, is_llava
from legion_jax.convert.roles import ADDED, MODULES
from legion_jax.convert.table import rules
from legion_jax.convert.tensor_folder import SourceError
from legion_jax.convert.values import Tensor, Values, origin_of

# Modules PEFT itself can put back, by the name it knows them by.
SAVED = {"embed_tokens": "model.embed_tokens.", "lm_head": "lm_head."}
PREFIX = "base_model.model."


def adapter_layout(folder: epath.PathLike) -> Files:
    """adapter_model.safetensors for the base model, and the rest.

    LoRA, embedding and language head go where `peft.PeftModel.from_pretrained` looks for them: in
    `LlavaForConditionalGeneration` of transformers 4.52 or newer if the weights came as a LLaVA,
    else in a language model with names `model.layers...`, as LEGION's. Everything else that was
    trained goes to `trained_modules.safetensors` under published names.
    """
    meta = origin.read_meta(origin_of(folder))
    spelling = origin.read_layout(epath.Path(origin_of(folder)) / "source").get(
        "main", {"spelling": ""})["spelling"]
    table = LLAVA_NEW if is_llava(spelling) else PUBLISHED
    values = Values(folder, merge=False, rows=(
        meta["vocabulary"]["rows"] if table is LLAVA_NEW else None))
    if not values.config.lora.rank:
        raise SourceError(f"{folder}: no LoRA in it (rank 0); layout legion holds all its weights")
    trained = _trained(folder, values)
    files = Files()
    lora = {name: t for name, t in values.tensors.items() if ".lora_" in name}
    saved = {name: t for name, t in trained.items() if name.startswith(tuple(SAVED.values()))}
    files.weights["adapter_model.safetensors"] = {
        PREFIX + table.from_published(name): t for name, t in (lora | saved).items()}
    if rest := {name: t for name, t in trained.items() if name not in saved | lora}:
        files.weights[MODULES] = rest
    files.small[lora_lib.CONFIG] = encode(lora_lib.config_file(
        values.config.lora, base=meta.get("sources", {}).get("main", {}).get("path", ""),
        layers=table.from_published("model.layers.0")[:-1],
        modules=[module for module, root in SAVED.items()
                 if any(name.startswith(root) for name in saved)]))
    return files


def _trained(folder: epath.PathLike, values: Values) -> dict[str, Tensor]:
    """Tensors that differ from the base: of training, or of the adapter this was converted from."""
    paths, place = set(), epath.Path(folder)
    while base := (meta := origin.read_meta(place))["base"]:
        paths |= set(meta["trained"])
        place = epath.Path(base["path"])
    names = {key for rule in rules(values.config) if rule.path in paths
             for key in rule.keys.ravel()}
    names |= {t["published"] for role in ADDED
              for t in values.roles.get(role, {"tensors": {}})["tensors"].values()}
    return {name: t for name, t in values.tensors.items() if name in names}

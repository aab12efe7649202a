"""One table between published tensor names and our parameter paths, used in both directions.

Key names are those of LEGION and GLaMM checkpoints, of a CLIP vision folder, of the detection
variant's head, and of what SIDA has beside them; `names` leads from the names of other layouts to
these. LoRA factors are in a table of their own: published checkpoints hold them merged.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from legion_jax.config import TOKEN, VISION, LegionConfig

SAM = "model.grounding_encoder."
PROJECTOR = "model.mm_projector"
# The two layers of a verdict head, by where the verdict comes from.
VERDICT = {VISION: ("prediction_head.0", "prediction_head.2"),
           TOKEN: ("model.cls_head.0.0", "model.cls_head.0.3")}
# The kernels of a layer of the language model.
LAYER_MODULES = {
    "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
    "out": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
    "down": "mlp.down_proj"}
FUSION_QUERY, FUSION_ATTENTION = "model.sida_fc1", "model.attention_layer"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Two-way change of layout of one (unstacked) array.

    Attributes:
        to_jax: PyTorch array -> our array.
        to_torch: our array -> PyTorch array; of `one_of`, what it is of that array.
        torch_shape: shape of our array -> shape of the PyTorch array.
    """

    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]
    torch_shape: Callable[[tuple[int, ...]], tuple[int, ...]]


def same() -> Layout:
    """An array that is laid out alike."""
    return Layout(lambda w: w, lambda w: w, lambda s: s)


def linear() -> Layout:
    """Linear weight [out, in] <-> kernel [in, out]."""
    return Layout(transposed, transposed, lambda s: s[::-1])


def unsqueezed() -> Layout:
    """[1, ...] <-> [...]."""
    return Layout(lambda w: w[0], lambda w: w[None], lambda s: (1, *s))


def one_of(number: int, total: int, inner: Layout) -> Layout:
    """The `number`th of `total` arrays that lie one behind the other in a PyTorch array.

    Rules that share a tensor stand in the table in the order in which their arrays lie in it.
    """
    def to_jax(w):
        rows = len(w) // total
        return inner.to_jax(w[number * rows:(number + 1) * rows])

    def torch_shape(s):
        rows, *others = inner.torch_shape(s)
        return (total * rows, *others)

    return Layout(to_jax, inner.to_torch, torch_shape)


def convolution(side: int) -> Layout:
    """Convolution weight [out, in, k, k] <-> kernel [k * k * in, out], taps row by row."""
    def to_jax(w):
        return w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])

    def to_torch(w):
        return w.reshape(side, side, -1, w.shape[1]).transpose(3, 2, 0, 1)

    return Layout(to_jax, to_torch, lambda s: (s[1], s[0] // side ** 2, side, side))


def upscaling() -> Layout:
    """Transposed 2 x 2 convolution [in, out, 2, 2] <-> kernel [in, 2 * 2 * out]."""
    def to_jax(w):
        return w.transpose(0, 2, 3, 1).reshape(w.shape[0], -1)

    def to_torch(w):
        return w.reshape(w.shape[0], 2, 2, -1).transpose(0, 3, 1, 2)

    return Layout(to_jax, to_torch, lambda s: (s[0], s[1] // 4, 2, 2))


def vocabulary(rows: int, tokens: int, padded: int, *, transpose: bool) -> Layout:
    """[V, D] <-> [V padded, D], or its transpose; padding rows are zero and cut on the way out.

    `rows` may count rows that belong to no token: they travel in the padding. Tokens beyond them
    are new, and each begins with the mean of the rows: its logit is the mean of the others' logits.
    """
    def to_jax(w):
        new = np.zeros((padded - rows, *w.shape[1:]), w.dtype)
        if tokens > rows:
            new[:tokens - rows] = w.astype(np.float32).mean(axis=0, dtype=np.float64)
        w = np.concatenate([w, new])
        return transposed(w) if transpose else w

    def to_torch(w):
        return transposed(w[:, :rows]) if transpose else w[:rows]

    return Layout(to_jax, to_torch, lambda s: (rows, s[0] if transpose else s[1]))


def transposed(w: np.ndarray) -> np.ndarray:
    """w.T in memory order, in strips that fit a processor's cache: numpy takes 4 times as long."""
    out = np.empty(w.shape[::-1], w.dtype)
    for start in range(0, len(w), 16):
        out[:, start:start + 16] = w[start:start + 16].T
    return out


@dataclasses.dataclass(frozen=True)
class Rule:
    """One parameter and the tensors it is made of.

    Attributes:
        path: our parameter path.
        keys: array of tensor names; its shape is that of the stacking axes of the parameter,
            () for a parameter that is not stacked.
        layout: layout of one tensor.
    """

    path: str
    keys: np.ndarray
    layout: Layout


def _rule(path: str, key: str, kind: Layout, *numbers) -> Rule:
    """`key` may hold {i} (and {j}) for the stacking axes; `numbers` are their values."""
    if not numbers:
        return Rule(path, np.array(key, object), kind)
    if len(numbers) == 1:
        names = [key.format(i=i) for i in numbers[0]]
        return Rule(path, np.array(names, object).reshape(len(names)), kind)
    names = [[key.format(i=i, j=j) for j in numbers[1]] for i in numbers[0]]
    return Rule(path, np.array(names, object).reshape(len(numbers[0]), len(numbers[1])), kind)


def _weighted(path: str, key: str, parameter: str, kind: Layout, numbers: tuple,
              bias: bool) -> list[Rule]:
    biases = [_rule(f"{path}/bias", f"{key}.bias", same(), *numbers)] if bias else []
    return [_rule(f"{path}/{parameter}", f"{key}.weight", kind, *numbers), *biases]


def _dense(path: str, key: str, *numbers, bias: bool = True) -> list[Rule]:
    return _weighted(path, key, "kernel", linear(), numbers, bias)


def _norm(path: str, key: str, *numbers, bias: bool = True) -> list[Rule]:
    return _weighted(path, key, "scale", same(), numbers, bias)


def _attention(path: str, key: str, *numbers, out: str = "out", bias: bool = True) -> list[Rule]:
    names = {"query": "q", "key": "k", "value": "v", "out": out}
    return [rule for ours, theirs in names.items()
            for rule in _dense(f"{path}/{ours}", f"{key}.{theirs}_proj", *numbers, bias=bias)]


def clip_rules(config: LegionConfig) -> list[Rule]:
    """CLIP's vision tower."""
    c, root, n = config.vision, "vision_model.", range(config.vision.depth)
    block = root + "encoder.layers.{i}."
    rules = [
        _rule("vision/cls", root + "embeddings.class_embedding", same()),
        _rule("vision/patch/kernel", root + "embeddings.patch_embedding.weight",
              convolution(c.patch)),
        _rule("vision/position", root + "embeddings.position_embedding.weight", same()),
        *_norm("vision/pre_norm", root + "pre_layrnorm"),  # sic, CLIP's own spelling
        *_norm("vision/layers/norm1", block + "layer_norm1", n),
        *_norm("vision/layers/norm2", block + "layer_norm2", n),
        *_dense("vision/layers/mlp/up", block + "mlp.fc1", n),
        *_dense("vision/layers/mlp/down", block + "mlp.fc2", n)]
    return rules + _attention("vision/layers", block + "self_attn", n)


def language_rules(config: LegionConfig, rows: int | None = None) -> list[Rule]:
    """`rows`: of the vocabulary matrices in PyTorch, if some belong to no token."""
    c, n = config.language, range(config.language.layers)
    matrix = functools.partial(vocabulary, rows or c.vocab, c.vocab, c.padded_vocab)
    block = "model.layers.{i}."
    rules = [
        _rule("language/embed/embedding", "model.embed_tokens.weight", matrix(transpose=False)),
        _rule("language/head/kernel", "lm_head.weight", matrix(transpose=True)),
        *_norm("language/norm", "model.norm", bias=False),
        *_norm("language/layers/norm1", block + "input_layernorm", n, bias=False),
        *_norm("language/layers/norm2", block + "post_attention_layernorm", n, bias=False)]
    rules += _attention("language/layers", block + "self_attn", n, out="o", bias=False)
    for name in ("gate", "up", "down"):
        rules += _dense(f"language/layers/{name}", f"{block}mlp.{name}_proj", n, bias=False)
    return rules


def sam_encoder_rules(config: LegionConfig) -> list[Rule]:
    """SAM's image encoder."""
    c, root = config.sam, SAM + "image_encoder."
    kinds = (("window_layers", [i for i in range(c.layers) if i not in c.global_blocks]),
             ("global_layers", list(c.global_blocks)))
    block = root + "blocks.{i}."
    rules = [
        _rule("sam_encoder/patch/kernel", root + "patch_embed.proj.weight",
              convolution(c.patch)),
        _rule("sam_encoder/patch/bias", root + "patch_embed.proj.bias", same()),
        _rule("sam_encoder/position", root + "pos_embed", unsqueezed()),
        _rule("sam_encoder/neck_conv1/kernel", root + "neck.0.weight", convolution(1)),
        *_norm("sam_encoder/neck_norm1", root + "neck.1"),
        _rule("sam_encoder/neck_conv2/kernel", root + "neck.2.weight", convolution(3)),
        *_norm("sam_encoder/neck_norm2", root + "neck.3")]
    for kind, n in kinds:
        path = f"sam_encoder/{kind}"
        rules += [
            *_norm(f"{path}/norm1", block + "norm1", n),
            *_norm(f"{path}/norm2", block + "norm2", n),
            *_dense(f"{path}/attention/qkv", block + "attn.qkv", n),
            *_dense(f"{path}/attention/out", block + "attn.proj", n),
            _rule(f"{path}/attention/relative_rows", block + "attn.rel_pos_h", same(), n),
            _rule(f"{path}/attention/relative_columns", block + "attn.rel_pos_w", same(), n),
            *_dense(f"{path}/mlp/up", block + "mlp.lin1", n),
            *_dense(f"{path}/mlp/down", block + "mlp.lin2", n)]
    return rules


def mask_decoder_rules(config: LegionConfig) -> list[Rule]:
    """SAM's mask decoder."""
    c, root, n = config.sam, SAM + "mask_decoder.", range(config.sam.decoder_layers)
    block = root + "transformer.layers.{i}."
    hyper = root + "output_hypernetworks_mlps.{i}.layers."
    iou = root + "iou_prediction_head.layers."
    middle = range(1, c.iou_layers - 1)
    rules = [
        _rule("mask_decoder/iou_token", root + "iou_token.weight", same()),
        _rule("mask_decoder/mask_tokens", root + "mask_tokens.weight", same()),
        *_norm("mask_decoder/final_norm", root + "transformer.norm_final_attn"),
        _rule("mask_decoder/upscale1/kernel", root + "output_upscaling.0.weight",
              upscaling()),
        _rule("mask_decoder/upscale1/bias", root + "output_upscaling.0.bias", same()),
        *_norm("mask_decoder/upscale_norm", root + "output_upscaling.1"),
        _rule("mask_decoder/upscale2/kernel", root + "output_upscaling.3.weight",
              upscaling()),
        _rule("mask_decoder/upscale2/bias", root + "output_upscaling.3.bias", same()),
        *_dense("mask_decoder/layers/mlp/up", block + "mlp.lin1", n),
        *_dense("mask_decoder/layers/mlp/down", block + "mlp.lin2", n),
        *_dense("mask_decoder/hyper/first", hyper + "0", range(4)),
        *_dense("mask_decoder/hyper/middle", hyper + "{j}", range(4), (1,)),
        *_dense("mask_decoder/hyper/last", hyper + "2", range(4)),
        *_dense("mask_decoder/iou_head/first", iou + "0"),
        *_dense("mask_decoder/iou_head/middle", iou + "{i}", middle),
        *_dense("mask_decoder/iou_head/last", f"{iou}{c.iou_layers - 1}")]
    for number in range(1, 5):
        rules += _norm(f"mask_decoder/layers/norm{number}", f"{block}norm{number}", n)
    for path, key, numbers in (
        ("layers/self_attention", block + "self_attn", (n,)),
        ("layers/token_to_image", block + "cross_attn_token_to_image", (n,)),
        ("layers/image_to_token", block + "cross_attn_image_to_token", (n,)),
        ("final_attention", root + "transformer.final_attn_token_to_image", ()),
    ):
        rules += _attention(f"mask_decoder/{path}", key, *numbers)
    return rules


def mask_rules() -> list[Rule]:
    """Everything that masks are drawn with, and what leads to it, but the encoder and decoder."""
    prompt = SAM + "prompt_encoder."
    return [
        *_dense("text_projection/up", "model.text_hidden_fcs.0.0"),
        *_dense("text_projection/down", "model.text_hidden_fcs.0.2"),
        _rule("prompt_encoder/no_mask", prompt + "no_mask_embed.weight", unsqueezed()),
        _rule("prompt_encoder/frequencies",
              prompt + "pe_layer.positional_encoding_gaussian_matrix", same())]


def projector_rules(config: LegionConfig) -> list[Rule]:
    """From vision to language."""
    if config.projector == "linear":
        return _dense("projector", PROJECTOR)
    return [*_dense("projector/up", f"{PROJECTOR}.0"), *_dense("projector/down", f"{PROJECTOR}.2")]


def verdict_rules(config: LegionConfig) -> list[Rule]:
    """The verdict head; none where there is none."""
    if config.verdict_source not in VERDICT:
        return []
    up, down = VERDICT[config.verdict_source]
    return [*_dense("verdict/up", up), *_dense("verdict/down", down)]


def fusion_rules(config: LegionConfig) -> list[Rule]:
    """SIDA's attention of the verdict to the masks, whose three projections PyTorch packs."""
    if not config.fusion:
        return []
    packed = f"{FUSION_ATTENTION}.in_proj_"
    rules = [*_dense("fusion/ask", FUSION_QUERY),
             *_dense("fusion/out", f"{FUSION_ATTENTION}.out_proj")]
    for number, name in enumerate(("query", "key", "value")):
        rules += [_rule(f"fusion/{name}/kernel", f"{packed}weight", one_of(number, 3, linear())),
                  _rule(f"fusion/{name}/bias", f"{packed}bias", one_of(number, 3, same()))]
    return rules


def lora_rules(config: LegionConfig) -> list[Rule]:
    """LoRA factors of unmerged checkpoints; none when the model has none."""
    if not config.lora.rank:
        return []
    n = range(config.language.layers)
    return [_rule(f"language/layers/{target}/lora_{factor.lower()}",
                  f"model.layers.{{i}}.{LAYER_MODULES[target]}.lora_{factor}.weight", linear(), n)
            for target in config.lora.targets for factor in "AB"]


def rules(config: LegionConfig, rows: int | None = None) -> list[Rule]:
    """The whole table for a model of these sizes, LoRA apart; `rows` as in `language_rules`."""
    draws = config.sam is not None
    return [*clip_rules(config), *language_rules(config, rows),
            *(sam_encoder_rules(config) + mask_decoder_rules(config) if draws else ()),
            *projector_rules(config), *(mask_rules() if draws else ()),
            *verdict_rules(config), *fusion_rules(config)]

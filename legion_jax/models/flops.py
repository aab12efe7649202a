"""Floating-point operations of LEGION, from shapes alone.

A product of matrices [m, k] and [k, n] is 2 m k n operations. A kernel that meets T rows therefore
costs 2 operations per value and row forward, 2 more for the gradient of its input where anything
before it is trained, and 2 more for its own gradient where it is trained itself: 6 in full
training, 4 under LoRA, 2 in a frozen tower that sees nothing but the photo. A product of two
activations costs 2 forward and 4 backward. Attention counts as the full square the program
computes, with the padding of windows and texts. Norms, softmax, element-wise operations and table
lookups count nothing. (The accounting of Chowdhery et al., 2022, appendix B.)
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from legion_jax.config import TOKEN, LegionConfig, remat_by_tower
from legion_jax.models import param_tree
from legion_jax.models.sam_decoder import NUM_MASKS

# Towers whose output each tower's input is made of.
_BEFORE = {"vision": set(), "sam_encoder": set(), "projector": {"vision"}, "verdict": {"vision"}}
_BEFORE["language"] = _BEFORE["projector"] | {"projector"}
_BEFORE["text_projection"] = _BEFORE["language"] | {"language"}
_BEFORE["fusion"] = _BEFORE["text_projection"] | {"text_projection", "verdict"}
_BEFORE["mask_decoder"] = _BEFORE["text_projection"] | {"text_projection", "sam_encoder"}
_BEFORE["frame"] = _BEFORE["mask_decoder"] | {"mask_decoder"}


def _before(config: LegionConfig, tower: str) -> set[str]:
    """Towers whose output that of `tower` is made of."""
    before = _BEFORE[tower]
    if tower == "verdict" and config.verdict_source == TOKEN:
        return _BEFORE["language"] | {"language"}
    if tower in ("mask_decoder", "frame") and config.fusion:
        return before | {"verdict", "fusion"}
    return before


_TOKENS = NUM_MASKS + 2  # of the mask decoder: IoU, masks, prompt
# See a tower's input itself.
_FIRST = (r"/patch/|^(projector|text_projection|verdict)/up/|^projector/kernel"
          r"|^fusion/(ask|key|value)/")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of one photo: ids of its text, index of the image among them, masks, side of their frame.

    `first_target`: the id from which on texts are learned, if not all behind the image.
    """

    text: int
    image_index: int
    masks: int
    canvas: int
    first_target: int = 0


@dataclasses.dataclass(frozen=True)
class Product:
    """Matrix products of one photo: parameter path, or tower and name; operations forward.

    `kernel` tells a product with a constant or a parameter from one of two activations.
    """

    path: str
    forward: float
    kernel: bool = True

    @property
    def tower(self) -> str:
        return self.path.split("/")[0]


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations per photo: `model` without recomputation, `executed` with what remat repeats."""

    model: float
    executed: float


def training(config: LegionConfig, sizes: Sizes, *, trainable: Sequence[str],
             losses: Mapping[str, float], cached: Sequence[str] = ()) -> Flops:
    """One photo of one update.

    `losses`, {name: weight}, decide which towers run, but for those whose output is `cached`.
    """
    paths = param_tree.abstract_params(config)
    trained = {p for p in paths if any(re.search(pattern, p) for pattern in trainable)}
    towers, runs = {p.split("/")[0] for p in trained}, _running(config, losses) - set(cached)
    model, again, remat = 0.0, 0.0, remat_by_tower(config.remat)
    for product in products(config, sizes):
        if product.tower not in runs or (product.path == "language/head/kernel"
                                         and not losses["ce"]):
            continue
        before = _before(config, product.tower)
        if not re.search(_FIRST, product.path):
            before = before | {product.tower}
        flows = bool(before & towers)
        backward = flows + (product.path in trained) if product.kernel else 2 * flows
        model += product.forward * (1 + backward)
        repeated = _repeated(product, remat.get(product.tower, "none"))
        again += product.forward * (flows and repeated)
    return Flops(model, model + again)


def answering(config: LegionConfig, sizes: Sizes, *, new: int) -> tuple[float, float]:
    """Operations per photo of reading a prompt of `sizes.text` ids, and of each of `new` tokens."""
    S = sizes.text - 1 + config.vision.num_patches
    c = config.language
    attention = 4 * c.layers * c.width * (S + new)
    once = token = 0.0
    for product in products(config, sizes):
        if product.tower in ("vision", "projector", "verdict"):
            once += product.forward
        elif product.path == "language/head/kernel":
            token += 2 * c.width * c.padded_vocab
        elif product.tower == "language" and product.kernel:
            once += product.forward
            token += product.forward / S
    return once + attention * S, token + attention


def products(config: LegionConfig, sizes: Sizes) -> list[Product]:
    """Everything a training example multiplies in the forward pass."""
    rows, kernels = _rows(config, sizes), []
    for path, array in param_tree.abstract_params(config).items():
        if path.endswith(("/kernel", "/lora_a", "/lora_b")):
            met = next(number for pattern, number in rows if re.search(pattern, path))
            kernels.append(Product(path, 2 * math.prod(array.shape) * met))
    masks = _sam_attention(config) + _mask_products(config, sizes) if config.sam else []
    return kernels + _attention(config, sizes) + masks


def _rows(config: LegionConfig, sizes: Sizes) -> list[tuple[str, float]]:
    """(pattern of kernel paths, rows of one photo that meet the kernel); the first one counts."""
    P = config.vision.num_patches
    return [
        (r"^vision/patch/", P), (r"^vision/", 1 + P), (r"^projector/", P),
        (r"^language/layers/", sizes.text - 1 + P),
        (r"^language/head/", sizes.text - max(sizes.first_target, sizes.image_index + 1)),
        (r"^verdict/", 1), (r"^fusion/(ask|query|out)/", 1),
        *(_mask_rows(config, sizes.masks) if config.sam else ())]


def _mask_rows(config: LegionConfig, K: int) -> list[tuple[str, float]]:
    """As `_rows`, of what draws K masks."""
    cells = config.sam.grid ** 2
    return [
        (r"^(text_projection|fusion)/", K),
        (r"^sam_encoder/window_layers/attention/", _windowed(config)), (r"^sam_encoder/", cells),
        (r"(self_attention|layers/mlp)/", K * _TOKENS),
        (r"(token_to_image|final_attention)/(query|out)/", K * _TOKENS),
        (r"image_to_token/(key|value)/", K * _TOKENS),
        # Before the first layer's end the image is the same for all prompts.
        (r"layers/(token_to_image/(key|value)|image_to_token/query)/",
         (K - (K - 1) / config.sam.decoder_layers) * cells),
        (r"(token_to_image|final_attention|image_to_token)/", K * cells),
        (r"/upscale1/", K * cells), (r"/upscale2/", 4 * K * cells),
        (r"/hyper/", K / NUM_MASKS),  # of the stack only the first is used
        (r"/iou_head/", 0)]  # no loss looks at it


def _windowed(config: LegionConfig) -> int:
    """Cells of all windows of a photo, with the padding of the last ones."""
    c = config.sam
    return (-(-c.grid // c.window) * c.window) ** 2


def _attention(config: LegionConfig, sizes: Sizes) -> list[Product]:
    vision, text, S = config.vision, config.language, sizes.text - 1 + config.vision.num_patches
    each = vision.depth * (1 + vision.num_patches) ** 2
    return [Product("vision/layers/", 4 * each * vision.width, kernel=False),
            Product("language/layers/", 4 * text.layers * S ** 2 * text.width, kernel=False)]


def _sam_attention(config: LegionConfig) -> list[Product]:
    sam, cells, attention = config.sam, config.sam.grid ** 2, []
    wide = len(sam.global_blocks)
    for path, layers, queries, side in (
            ("sam_encoder/window_layers/", sam.layers - wide, _windowed(config), sam.window),
            ("sam_encoder/global_layers/", wide, cells, sam.grid)):
        each = layers * queries * sam.width
        attention.append(Product(path, 4 * each * side ** 2, kernel=False))
        attention += [Product(f"{path}attention/relative_{axis}", 2 * each * side)
                      for axis in ("rows", "columns")]
    return attention


def _mask_products(config: LegionConfig, sizes: Sizes) -> list[Product]:
    c, K, C = config.sam, sizes.masks, sizes.canvas
    D, cells, side = c.prompt_width, c.grid ** 2, 4 * c.grid
    crossed = (2 * c.decoder_layers + 1) * _TOKENS * cells * D // 2
    own = c.decoder_layers * _TOKENS ** 2 * D
    return [Product("mask_decoder/attention", 4 * K * (crossed + own), kernel=False),
            Product("mask_decoder/masks", 2 * K * side ** 2 * D // 8, kernel=False),
            Product("frame/", 2 * K * (C * side * side + C * C * side))]


def _running(config: LegionConfig, losses: Mapping[str, float]) -> set[str]:
    """Towers that the losses of weight above 0 need."""
    masks, judged = losses["bce"] or losses["dice"], losses["verdict"]
    reads = masks or losses["ce"] or (judged and config.verdict_source == TOKEN)
    towers = {"vision"}
    towers |= {"projector", "language"} if reads else set()
    towers |= {"text_projection", "sam_encoder", "mask_decoder", "frame"} if masks else set()
    towers |= {"verdict", "fusion"} if masks and config.fusion else set()
    return towers | ({"verdict"} if judged else set())


def _repeated(product: Product, remat: str) -> bool:
    """Whether it runs twice: all of a layer but its last product, or only its attention."""
    if remat == "none" or not re.match(r"(vision|language|sam_encoder)/\w*layers/", product.path):
        return False
    if remat == "attention":
        return not product.kernel or "/relative_" in product.path
    return "/down/" not in product.path

"""Names of the same tensors in other layouts: one two-way table of renames per layout.

The published names, on which `rules` works, are those of LEGION and GLaMM folders, for CLIP those
of a vision tower folder, and SIDA's for what only SIDA has. Every table is a pure rename: shapes
and values stay. What a layout cannot hold, such as SAM in a LLaVA folder, is not in its table.

Vision towers and LLaVA have several spellings because transformers changed its modules: LLaVA got
a `model.` in 4.52, and towers lost their inner `vision_model.` in 5. Version 4 saves LLAVA_OLD; 5
saves the names it has read, and LLAVA_5_FILE for a model that it made. LLAVA_OLD opens in all.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable

from legion_jax.config import TOKEN, LegionConfig
from legion_jax.convert.table import FUSION_ATTENTION, FUSION_QUERY, SAM, VERDICT


@functools.cache
def _compiled(pattern: str) -> re.Pattern:
    regex = re.escape(pattern).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
    return re.compile(regex + (r"(?P<rest>.+)" if pattern.endswith(".") else ""))


def _rename(key: str, source: str, target: str) -> str | None:
    if not (match := _compiled(source).fullmatch(key)):
        return None
    groups = match.groupdict()
    rest = groups.pop("rest", "")
    return target.format(**groups) + rest


def _first_renamed(key: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    renamed = (_rename(key, source, target) for source, target in pairs)
    return next((name for name in renamed if name is not None), None)


@dataclasses.dataclass(frozen=True)
class Spelling:
    """Two-way table between published names and those of one layout.

    Attributes:
        name: what messages call the layout.
        pairs: (published pattern, pattern here). {i} and {j} stand for a number; a pattern that
            ends in a dot is the beginning of a name, any other the whole of it. No two patterns
            of one side fit the same name.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]

    def to_published(self, key: str) -> str | None:
        """The published name of a tensor of this layout; None when the table has no such name."""
        return _first_renamed(key, ((theirs, published) for published, theirs in self.pairs))

    def from_published(self, key: str) -> str | None:
        """The name here of a published tensor; None when the layout has no place for it."""
        return _first_renamed(key, self.pairs)


def _same(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, name) for name in names)


def _moved(source: str, target: str, *names: str) -> tuple[tuple[str, str], ...]:
    return tuple((source + name, target + name) for name in names)


def _tower(root: str) -> tuple[tuple[str, str], ...]:
    return _moved("vision_model.", root, "embeddings.", "pre_layrnorm.", "encoder.layers.",
                  "post_layernorm.")


def _llava(name: str, *, tower: str, projector: str, language: str, head: str) -> Spelling:
    return Spelling(name, (
        *_tower(tower),
        ("model.mm_projector.0.", projector + "linear_1."),
        ("model.mm_projector.2.", projector + "linear_2."),
        *_moved("model.", language, "embed_tokens.", "layers.", "norm."),
        ("lm_head.", head)))


def _hf_image_encoder() -> tuple[tuple[str, str], ...]:
    source, target = SAM + "image_encoder.", "vision_encoder."
    return (
        (source + "pos_embed", target + "pos_embed"),
        (source + "patch_embed.proj.", target + "patch_embed.projection."),
        (source + "blocks.{i}.norm{j}.", target + "layers.{i}.layer_norm{j}."),
        *_moved(source + "blocks.{i}.", target + "layers.{i}.", "attn.", "mlp."),
        (source + "neck.0.", target + "neck.conv1."),
        (source + "neck.1.", target + "neck.layer_norm1."),
        (source + "neck.2.", target + "neck.conv2."),
        (source + "neck.3.", target + "neck.layer_norm2."))


def _hf_prompt_encoder() -> tuple[tuple[str, str], ...]:
    source, target = SAM + "prompt_encoder.", "prompt_encoder."
    masks = ((0, "conv1"), (1, "layer_norm1"), (3, "conv2"), (4, "layer_norm2"), (6, "conv3"))
    return (
        (source + "pe_layer.positional_encoding_gaussian_matrix",
         "shared_image_embedding.positional_embedding"),
        (source + "point_embeddings.{i}.", target + "point_embed.{i}."),
        *_moved(source, target, "not_a_point_embed.", "no_mask_embed."),
        *((f"{source}mask_downscaling.{number}.", f"{target}mask_embed.{name}.")
          for number, name in masks))


def _hf_mlp(name: str, layers: int) -> tuple[tuple[str, str], ...]:
    source, target = f"{SAM}mask_decoder.{name}.", f"mask_decoder.{name}."
    return (
        (source + "layers.0.", target + "proj_in."),
        *((f"{source}layers.{i}.", f"{target}layers.{i - 1}.") for i in range(1, layers - 1)),
        (f"{source}layers.{layers - 1}.", target + "proj_out."))


def _hf_mask_decoder(iou_layers: int) -> tuple[tuple[str, str], ...]:
    source, target = SAM + "mask_decoder.", "mask_decoder."
    block = "transformer.layers.{i}."
    return (
        *_moved(source, target, "iou_token.", "mask_tokens."),
        *_moved(source + block, target + block, "self_attn.", "cross_attn_token_to_image.",
                "cross_attn_image_to_token.", "mlp."),
        (source + block + "norm{j}.", target + block + "layer_norm{j}."),
        *_moved(source, target, "transformer.final_attn_token_to_image."),
        (source + "transformer.norm_final_attn.", target + "transformer.layer_norm_final_attn."),
        (source + "output_upscaling.0.", target + "upscale_conv1."),
        (source + "output_upscaling.1.", target + "upscale_layer_norm."),
        (source + "output_upscaling.3.", target + "upscale_conv2."),
        *_hf_mlp("output_hypernetworks_mlps.{i}", 3),
        *_hf_mlp("iou_prediction_head", iou_layers))


def sam_hf(iou_layers: int = 3) -> Spelling:
    """Transformers' `SamModel`, which counts the layers of the IoU head from both ends."""
    return Spelling("SAM of transformers", (
        *_hf_image_encoder(), *_hf_prompt_encoder(), *_hf_mask_decoder(iou_layers)))


_LLAVA = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.", "model.mm_projector.",
          "model.text_hidden_fcs.", "model.vision_tower.vision_tower.")  # and a projection of [SEG]
PUBLISHED = Spelling("LEGION", _same(*_LLAVA, "model.region_encoder.", "prediction_head.", SAM))
LISA = Spelling("LISA", (
    *_same(*_LLAVA, *(f"{layer}." for layer in VERDICT[TOKEN]), f"{FUSION_QUERY}.",
           f"{FUSION_ATTENTION}."), (SAM, "model.visual_model.")))
CLIP = Spelling("CLIP", _same("vision_model."))
CLIP_5 = Spelling("CLIP vision tower of transformers 5", _tower(""))
CLS_TOWER = Spelling("vision tower of a detection checkpoint",
                     (("vision_model.", "model.vision_tower.vision_tower.vision_model."),))
SAM_ORIGINAL = Spelling("SAM", tuple(
    (SAM + part, part) for part in ("image_encoder.", "prompt_encoder.", "mask_decoder.")))
SAM_HF = sam_hf()
LLAVA_OLD = _llava(
    "LLaVA of transformers 4.51", tower="vision_tower.vision_model.",
    projector="multi_modal_projector.", language="language_model.model.",
    head="language_model.lm_head.")
LLAVA_NEW = _llava(
    "LLaVA of transformers 4.52", tower="model.vision_tower.vision_model.",
    projector="model.multi_modal_projector.", language="model.language_model.", head="lm_head.")
LLAVA_5 = _llava(
    "LLaVA of transformers 5", tower="model.vision_tower.",
    projector="model.multi_modal_projector.", language="model.language_model.", head="lm_head.")
LLAVA_5_FILE = _llava(
    "LLaVA saved by transformers 5", tower="vision_tower.",
    projector="multi_modal_projector.", language="language_model.model.",
    head="language_model.lm_head.")

# Where two tables know as many names of a set, the first is meant.
TABLES = (CLS_TOWER, PUBLISHED, LISA, CLIP, SAM_ORIGINAL, SAM_HF, LLAVA_OLD, LLAVA_NEW, LLAVA_5,
          LLAVA_5_FILE, CLIP_5)


def is_llava(name: str) -> bool:
    """Whether a table's name is that of a LLaVA."""
    return name.startswith("LLaVA")


def detect(keys: Iterable[str]) -> Spelling | None:
    """The table that knows most of these names; None when none knows any.

    A detection checkpoint, of which a part is the vision tower, is PUBLISHED; the tower alone is
    CLS_TOWER.
    """
    keys = list(keys)
    known = [sum(table.to_published(key) is not None for key in keys) for table in TABLES]
    if not max(known):
        return None
    best = TABLES[known.index(max(known))]
    if best is not SAM_HF:
        return best
    middle = re.compile(r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.weight")
    return sam_hf(2 + sum(bool(middle.fullmatch(key)) for key in keys))


# Tensors of published checkpoints that LEGION never runs: they are carried through. Any other that
# no rule uses is reported by name.
KNOWN = (
    r"^model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$",  # rounded; recomputed exactly
    r"^model\.region_encoder\.",
    rf"^{re.escape(SAM)}prompt_encoder\.(point_embeddings|not_a_point_embed|mask_downscaling)",
    r"^vision_model\.(encoder\.layers|post_layernorm|embeddings\.position_ids)",
    r"^model\.vision_tower\.",  # of detection checkpoints; CLIP comes from its own folder
    r"^(text_model\.|text_projection\.|visual_projection\.|logit_scale$)",  # rest of a CLIP folder
)
# Names of what is modelled; one that no rule uses means that files and config disagree.
MODELLED = (r"^model\.(layers|embed_tokens|norm|mm_projector|text_hidden_fcs)\.", r"^lm_head\.",
            r"^model\.(cls_head|sida_fc1|attention_layer)\.",
            rf"^{re.escape(SAM)}(image_encoder|mask_decoder)\.", r"^prediction_head\.")


def belongs_to_model(key: str) -> bool:
    """Whether a tensor that no rule uses should have been used."""
    return not is_known(key) and any(re.search(pattern, key) for pattern in MODELLED)


def is_known(key: str) -> bool:
    """Whether a tensor that no rule uses is one that published checkpoints are known to carry."""
    return any(re.search(pattern, key) for pattern in KNOWN)


def unused_prompts(config: LegionConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of the tensors of SAM's point and mask prompts, which LEGION never runs."""
    if config.sam is None:
        return {}
    D, C = config.sam.prompt_width, config.sam.mask_channels
    root = SAM + "prompt_encoder."
    shapes = {f"{root}point_embeddings.{i}.weight": (1, D) for i in range(4)}
    shapes[f"{root}not_a_point_embed.weight"] = (1, D)
    for number, shape in ((0, (C // 4, 1, 2, 2)), (1, (C // 4,)), (3, (C, C // 4, 2, 2)),
                          (4, (C,)), (6, (D, C, 1, 1))):
        shapes[f"{root}mask_downscaling.{number}.weight"] = shape
        shapes[f"{root}mask_downscaling.{number}.bias"] = shape[:1]
    return shapes

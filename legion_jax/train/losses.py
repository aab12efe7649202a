"""Losses as sums with validity masks; the caller divides by counts of the *global* batch.

Counts depend on the data alone, so gradient accumulation and any sharding give the same loss as
one large batch on one device.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from input_pipeline.records import verdict_classes
from input_pipeline.records.record import LABELS, UNKNOWN
from legion_jax.config import CLS_TOKEN, SEG_TOKEN, TOKEN, LegionConfig
from legion_jax.models import mask_frame
from legion_jax.models.legion import Legion
from legion_jax.models.reading import Reading, framed_masks, read_text, see, verdict_logits
from legion_jax.sharding import BATCH, SEQUENCE, constrain

DICE_SCALE, DICE_EPS = 1000.0, 1e-6  # of the published code: dice smoothed by 1e-3 pixels
TEXT, MASKS, VERDICT = ("ce",), ("bce", "dice"), ("verdict",)
ALL = (*TEXT, *MASKS, *VERDICT)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The losses of a model of this family, as `step.make_step` takes them.

    Attributes:
        weights: {name of ALL: weight}; terms of weight 0 are not computed.
        nan_without_text: in a batch without targets the text's loss is NaN rather than 0, as in
            SIDA's published code.
    """

    weights: Mapping[str, float]
    reading: Reading
    nan_without_text: bool = False

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the terms that are computed."""
        return tuple(name for name in ALL if self.weights[name])

    def sums(self, model: Legion, batch: dict, key: jax.Array | None) -> dict[str, jax.Array]:
        """As of `sums`."""
        return sums(model, batch, self.reading, key=key, wanted=self.wanted)

    def counts(self, config: LegionConfig, batch: dict) -> dict[str, jax.Array]:
        """As of `counts`."""
        total = counts(config, batch, self.reading)
        if self.nan_without_text and "ce" in self.wanted:
            total["ce"] = jnp.where(total["ce"] == 0, jnp.nan, total["ce"])
        return total

    def metrics(self, config: LegionConfig, batch: dict) -> dict[str, jax.Array]:
        """Of a whole batch: its masks, masks dropped, and tokens that the language model reads.

        Where the verdict is on a token, also the labelled photos whose rows lack it.
        """
        on_token = config.verdict_source == TOKEN
        reads = bool({*TEXT, *MASKS} & set(self.wanted)) or (
            on_token and "verdict" in self.wanted)
        total = self.counts(config, batch)
        unjudged = (batch["label"] != UNKNOWN).sum() - total["verdict"]
        return {"masks": total["bce"], "dropped": batch["dropped"].sum(),
                "tokens": tokens(batch, config.vision.num_patches) * reads} | (
                    {"unjudged": unjudged} if on_token else {})


def text_sums(model: Legion, states: jax.Array, batch: dict, image_index: int,
              first_target: int = 0) -> jax.Array:
    """Sum of next-token cross-entropies over the targets (`loss_mask`) of a batch.

    The vocabulary projection runs only where a target can be: after the image, and from the id
    `first_target` on, of which the caller knows that none before it is a target.
    """
    first = max(first_target, image_index + 1)
    # Behind the image an id stands P - 1 places further on, and its predictor one before it.
    logits = model.language.logits(states[:, first + model.config.vision.num_patches - 2:-1])
    logits = constrain(logits, BATCH, SEQUENCE, "tensor")  # [B, T - first, V]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["ids"][:, first:])
    return jnp.where(batch["loss_mask"][:, first:], losses, 0).sum()


def mask_sums(logits: jax.Array, targets: jax.Array, pixels: jax.Array, valid: jax.Array):
    """Binary cross-entropy and dice, each summed over masks.

    Args:
        logits, targets: float32[B, K, C, C]; pixels: bool[B, C, C], inside the photo.
        valid: bool[B, K].

    Returns:
        (sum over masks of the pixel-mean cross-entropy, sum over masks of the dice loss).
    """
    pixels = pixels[:, None]

    def total(x):
        return jnp.where(pixels, x, 0).sum((-2, -1))  # [B, K]

    # As optax.sigmoid_binary_cross_entropy, with half of its logarithms.
    bce = total(jax.nn.softplus(logits) - logits * targets) / total(jnp.ones_like(logits))
    p = jax.nn.sigmoid(logits)
    overlap = 2 * total(p / DICE_SCALE * targets) + DICE_EPS
    size = total(p / DICE_SCALE) + total(targets / DICE_SCALE) + DICE_EPS
    return jnp.where(valid, bce, 0).sum(), jnp.where(valid, 1 - overlap / size, 0).sum()


def class_indices(label: jax.Array, classes: Sequence[str]) -> jax.Array:
    """Classes of the verdict head, by `verdict_classes.class_of`, int32[B].

    Args:
        label: int[B], of records, see `record.LABELS`.
        classes: the head's names by index.

    Returns:
        The index of each label's class; -1 where the label is unknown or has none.
    """
    index = {number: verdict_classes.class_of(name, classes)
             for number, name in LABELS.items() if number != UNKNOWN}
    known = {number: found for number, found in index.items() if found is not None}
    return jnp.select([label == number for number in known],
                      [jnp.int32(found) for found in known.values()], jnp.int32(-1))


def verdict_sum(logits: jax.Array, label: jax.Array, classes: Sequence[str]) -> jax.Array:
    """Sum of the cross-entropies of photos with a known label; arguments as of `class_indices`.

    NaN where a known label has no class: a run begins only where all have one, and halts at this.
    """
    target = class_indices(label, classes)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(target, 0))
    losses = jnp.where(target < 0, jnp.nan, losses)
    return jnp.where(label != UNKNOWN, losses, 0).sum()


def counts(config: LegionConfig, batch: dict, reading: Reading) -> dict[str, jax.Array]:
    """Denominators of a whole batch by term: target tokens, masks, labelled photos."""
    used = jnp.zeros((), jnp.int32)
    if SEG_TOKEN in reading.watched:
        segs = (batch["ids"] == reading.watched[SEG_TOKEN]).sum(axis=1)
        used = jnp.minimum(segs, batch["mask_valid"].sum(axis=1)).sum()
    judged = batch["label"] != UNKNOWN
    if config.verdict_source == TOKEN:
        judged &= (batch["ids"] == reading.watched[CLS_TOKEN]).any(axis=1)
    return {"ce": batch["loss_mask"].sum(), "bce": used, "dice": used, "verdict": judged.sum()}


def tokens(batch: dict, num_patches: int) -> jax.Array:
    """Positions the language model reads in a batch, patches included: int scalar.

    Neither padding nor rows without a usable record count.
    """
    read = batch["valid"].sum(axis=1) - 1 + num_patches  # the placeholder becomes the patches
    return jnp.where(batch["bad"] == 0, read, 0).sum()


def sums(model: Legion, batch: dict, reading: Reading, *, key=None,
         wanted: Sequence[str] = ALL) -> dict[str, jax.Array]:
    """Loss sums by term of a batch of training examples (see `input_pipeline.batches.examples`).

    A row with more ground-truth masks than [SEG]s (its text was truncated) uses the first ones;
    `key` switches LoRA dropout on. Terms that are not `wanted` are zero, and towers that only they
    need are not run: the verdict of a head on the vision tower needs that tower alone.
    """
    total = dict.fromkeys(ALL, jnp.zeros(()))
    seen, states, logits = see(model, batch), None, None
    judged = "verdict" in wanted and model.verdict is not None
    on_token = model.config.verdict_source == TOKEN
    masks = set(MASKS) & set(wanted)
    if "ce" in wanted or masks or (judged and on_token):
        states = read_text(model, batch, seen, reading.image_index, key)
    if "ce" in wanted:
        total["ce"] = text_sums(model, states, batch, reading.image_index, reading.first_target)
    if judged or (masks and model.fusion is not None):
        logits, known = verdict_logits(model, batch, seen, states, reading)
    if judged:
        total["verdict"] = verdict_sum(logits, jnp.where(known, batch["label"], UNKNOWN),
                                       model.config.classes)
    if masks:
        framed, has_seg = framed_masks(model, batch, states, reading, logits)
        both = mask_sums(framed, mask_frame.targets(batch["masks"]),
                         mask_frame.inside(batch["original_size"], framed.shape[-1]),
                         has_seg & batch["mask_valid"])
        total |= {name: value for name, value in zip(MASKS, both, strict=True) if name in masks}
    return total


def weighted_means(sums: Mapping, counts: Mapping, weights: Mapping) -> dict[str, jax.Array]:
    """weight * sum / count per term; a term that nothing in the batch feeds is zero."""
    return {name: weights[name] * sums[name] / jnp.maximum(counts[name], 1) for name in sums}

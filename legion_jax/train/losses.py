"""Losses as sums with validity masks; the caller divides by counts of the *global* batch.

Counts depend on the data alone, so gradient accumulation and any sharding give the same loss as
one large batch on one device.
"""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import optax

from input_pipeline.records import verdict_classes
from input_pipeline.records.record import LABELS, UNKNOWN
from legion_jax.models import mask_frame
from legion_jax.models.legion import Legion, seg_slots, splice_flags
from legion_jax.sharding import BATCH, SEQUENCE, constrain

DICE_SCALE, DICE_EPS = 1000.0, 1e-6  # of the published code: dice smoothed by 1e-3 pixels


@flax.struct.dataclass
class Terms:
    """One number per loss term: a sum, a count or a weight."""

    ce: jax.Array | float
    bce: jax.Array | float
    dice: jax.Array | float
    verdict: jax.Array | float


def text_sums(model: Legion, states: jax.Array, batch: dict, image_index: int,
              first_target: int = 0) -> jax.Array:
    """Sum of next-token cross-entropies over the targets (`loss_mask`) of a batch.

    The vocabulary projection runs only where a target can be: after the image, and from the id
    `first_target` on, of which the caller knows that none before it is a target.
    """
    first = max(first_target, image_index + 1)
    # Behind the image an id stands P - 1 places further on, and its predictor one before it.
    logits = model.language.logits(states[:, first + model.config.clip.num_patches - 2:-1])
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


def counts(batch: dict, seg_id: int) -> Terms:
    """Denominators of a whole batch: target tokens, masks, labelled photos."""
    segs = (batch["ids"] == seg_id).sum(axis=1)
    used = jnp.minimum(segs, batch["mask_valid"].sum(axis=1)).sum()
    return Terms(ce=batch["loss_mask"].sum(), bce=used, dice=used,
                 verdict=(batch["label"] != UNKNOWN).sum())


def tokens(batch: dict, num_patches: int) -> jax.Array:
    """Positions the language model reads in a batch, patches included: int scalar.

    Neither padding nor rows without a usable record count.
    """
    read = batch["valid"].sum(axis=1) - 1 + num_patches  # the placeholder becomes the patches
    return jnp.where(batch["bad"] == 0, read, 0).sum()


ALL = ("ce", "bce", "dice", "verdict")


def sums(model: Legion, batch: dict, *, image_index: int, seg_id: int, first_target: int = 0,
         key=None, wanted: Sequence[str] = ALL) -> Terms:
    """Loss sums of a batch of training examples (see `input_pipeline.batches.examples`).

    No id before `first_target` is a target (`loss_mask`) in any row; 0 where that is not known.
    A row with more ground-truth masks than [SEG]s (its text was truncated) uses the first ones;
    `key` switches LoRA dropout on. Terms that are not `wanted` are zero, and towers that only they
    need are not run: the verdict alone needs CLIP alone.
    """
    # Frozen towers may have seen the photo once and for all (`legion_jax.train.frozen_features`).
    seen = batch["clip_states"] if "clip_states" in batch else model.see(batch["clip_image"])
    ce = bce = dice = verdict = jnp.zeros(())
    if {"ce", "bce", "dice"} & set(wanted):
        states = read_text(model, batch, seen, image_index, key)
        if "ce" in wanted:
            ce = text_sums(model, states, batch, image_index, first_target)
        bce, dice = _wanted_mask_sums(model, batch, states, seg_id, wanted)
    if "verdict" in wanted and model.verdict is not None:
        verdict = verdict_sum(model.judge(seen), batch["label"], model.config.verdict_classes)
    return Terms(ce=ce, bce=bce, dice=dice, verdict=verdict)


def read_text(model: Legion, batch: dict, seen: jax.Array, image_index: int,
              key=None) -> jax.Array:
    """States [B, S, D] of the texts of a batch; `seen` is what CLIP made of its photos."""
    embeddings = model.embed(batch["ids"], seen, image_index)
    valid = splice_flags(batch["valid"], image_index, model.config.clip.num_patches, True)
    return model.read(embeddings, valid, key=key)


def framed_masks(model: Legion, batch: dict, states: jax.Array, seg_id: int):
    """The masks a batch's [SEG]s ask for, in the frame its true masks are in.

    Returns logits float32[B, K, C, C] and bool[B, K], whether there is a [SEG].
    """
    positions, has_seg, _ = seg_slots(batch["ids"], seg_id, batch["masks"].shape[1],
                                      model.config.clip.num_patches)
    prompts = model.prompt(jnp.take_along_axis(states, positions[..., None], axis=1))
    grounded = (batch["sam_embedding"] if "sam_embedding" in batch else
                model.ground(batch["sam_image"], batch["resized_size"]))
    logits, _ = model.draw(grounded, prompts)
    framed = mask_frame.to_frame(logits, batch["resized_size"], batch["original_size"],
                                 sam_size=model.config.sam.image_size,
                                 canvas=batch["masks"].shape[-2])
    return constrain(framed, BATCH, None, SEQUENCE, None), has_seg


def _wanted_mask_sums(model, batch, states, seg_id, wanted):
    zero = jnp.zeros(())
    if not {"bce", "dice"} & set(wanted):
        return zero, zero
    logits, has_seg = framed_masks(model, batch, states, seg_id)
    bce, dice = mask_sums(logits, mask_frame.unpack(batch["masks"]),
                          mask_frame.inside(batch["original_size"], logits.shape[-1]),
                          has_seg & batch["mask_valid"])
    return bce if "bce" in wanted else zero, dice if "dice" in wanted else zero


def weighted_means(sums: Terms, counts: Terms, weights: Terms) -> Terms:
    """weight * sum / count per term; a term that nothing in the batch feeds is zero."""
    return jax.tree.map(lambda s, n, w: w * s / jnp.maximum(n, 1), sums, counts, weights)

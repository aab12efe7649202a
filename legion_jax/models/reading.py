"""What a model makes of whole conversations: rows of ids in which the answers stand already.

Training reads them, and whoever scores true answers; prediction writes answers of its own.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from legion_jax.config import CLS_TOKEN, SEG_TOKEN, TOKEN
from legion_jax.models import mask_frame
from legion_jax.models.legion import Legion, Seen, last_token, splice_flags, token_slots
from legion_jax.sharding import BATCH, SEQUENCE, constrain


@dataclasses.dataclass(frozen=True)
class Reading:
    """Where in a row of ids everything stands that is looked at.

    Attributes:
        image_index: place of the image among the ids of every row.
        watched: {token of `LegionConfig.watched`: its id}.
        first_target: no id before it is a target (`loss_mask`) in any row; 0 where that is not
            known.
    """

    image_index: int
    watched: Mapping[str, int]
    first_target: int = 0


def see(model: Legion, batch: dict) -> Seen:
    """What the vision tower makes of a batch's photos.

    A frozen one may have seen them once and for all (`legion_jax.train.frozen_features`).
    """
    return Seen.from_rows(batch["seen"]) if "seen" in batch else model.see(batch["vision_image"])


def read_text(model: Legion, batch: dict, seen: Seen, image_index: int, key=None) -> jax.Array:
    """States [B, S, D] of the texts of a batch."""
    embeddings = model.embed(batch["ids"], seen, image_index)
    valid = splice_flags(batch["valid"], image_index, model.config.vision.num_patches, True)
    return model.read(embeddings, valid, key=key)


def verdict_logits(model: Legion, batch: dict, seen: Seen, states: jax.Array | None,
                   reading: Reading) -> tuple[jax.Array, jax.Array]:
    """Logits float32[B, classes] of the verdict head, and bool[B], whether a row has what it reads.

    A head on [CLS] reads the state that predicts the last one of the row, which is the answer's.
    """
    if model.config.verdict_source != TOKEN:
        return model.judge(seen.summary), jnp.ones(len(batch["label"]), bool)
    position, known = last_token(batch["ids"], reading.watched[CLS_TOKEN],
                                 model.config.vision.num_patches)
    state = jnp.take_along_axis(states, position[:, None, None], axis=1)[:, 0]
    return model.judge(state), known


def framed_masks(model: Legion, batch: dict, states: jax.Array, reading: Reading,
                 logits: jax.Array | None = None):
    """The masks a batch's [SEG]s ask for, in the frame its true masks are in.

    `logits` are the verdict's, which a model with fusion needs. Returns logits
    float32[B, K, C, C] and bool[B, K], whether there is a [SEG].
    """
    positions, has_seg, _ = token_slots(batch["ids"], reading.watched[SEG_TOKEN],
                                        batch["masks"].shape[1], model.config.vision.num_patches)
    prompts = model.prompt(jnp.take_along_axis(states, positions[..., None], axis=1))
    prompts = model.fuse(prompts, logits, has_seg)
    grounded = (batch["sam_embedding"] if "sam_embedding" in batch else
                model.ground(batch["sam_image"], batch["resized_size"]))
    drawn, _ = model.draw(grounded, prompts)
    framed = mask_frame.to_frame(drawn, batch["resized_size"], batch["original_size"],
                                 sam_size=model.config.sam.image_size,
                                 canvas=batch["masks"].shape[-2])
    return constrain(framed, BATCH, None, SEQUENCE, None), has_seg

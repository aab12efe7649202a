"""Checks of every activation of the training forward pass."""

import jax
import jax.numpy as jnp
import numpy as np

from legion_jax.convert.roles import Source
from legion_jax.models.legion import splice_flags
from legion_jax.models.reading import read_text, see
from tools.verify_case.comparisons import FEATURE, Results
from tools.verify_case.fakevlm.fakevlm_case import FakevlmCase
from tools.verify_case.tower import tower_states


def check_sight(case: FakevlmCase, results: Results) -> None:
    """CLIP (all hidden states) and projector."""
    views = case.views(case.config.vision.image_size)
    states = tower_states(case.config, Source.open(case.folder / "checkpoint").read, views)
    results.stats("clip_hidden_all_stats", states, axes=2)
    seen, projected = (np.asarray(x) for x in case.compute(_see, views))
    some = len(case.reference["clip_hidden_m2"])
    results.of_largest("clip_hidden_m2", seen[:some], tolerance=FEATURE)
    results.of_largest("clip_hidden_m2_first4", seen[:, :4], tolerance=FEATURE)
    results.stats("clip_hidden_m2_stats", seen, axes=2)
    results.of_largest("projected", projected[:some], tolerance=FEATURE)
    results.stats("projected_stats", projected, axes=2)


def _see(model, image):
    """What CLIP sees, and its patches as the language model reads them."""
    seen = model.see(image)
    return seen.rows, model.project(seen.patches)


def check_reading(case: FakevlmCase, results: Results) -> None:
    """Final states and logits of the training batch."""
    batch = case.batch(range(len(case.records)))
    states, logits, valid = (np.asarray(x) for x in case.compute(
        _read, batch, image_index=case.image_index(batch["ids"])))
    results.of_largest("last_hidden_valid", states[valid], tolerance=FEATURE)
    logits = logits[..., :case.config.language.vocab]
    for row, wanted in enumerate(case.reference["logits_stats"]):
        results.stats(f"logits_stats[{row}]", logits[row][valid[row]], wanted, axes=2)
    rows, columns = case.reference["label_rows_cols"].T
    at_labels = logits[rows, columns]
    results.of_largest("logits_at_labels_lse", jax.nn.logsumexp(jnp.asarray(at_labels), -1),
                       tolerance=FEATURE)
    targets = case.reference["train_labels"][rows, columns + 1]
    results.of_largest("logits_at_labels_target", at_labels[np.arange(len(targets)), targets],
                       tolerance=FEATURE)
    first = np.unique(rows, return_index=True)[1]
    results.of_largest("logits_first_answer", at_labels[first], tolerance=FEATURE)


def _read(model, batch, *, image_index):
    """Final states and logits of a batch, and which positions are of no padding."""
    states = read_text(model, batch, see(model, batch), image_index)
    valid = splice_flags(batch["valid"], image_index, model.config.vision.num_patches, True)
    return states, model.language.logits(states), valid

"""What evaluation, batch jobs and calibration ask of whatever judges photos, and how it is opened.

The model of this family is one kind of detector (`predictor.Predictor`). Whoever streams photos
through is another one: nothing outside this room asks which it has.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from legion_jax.predict.prediction import Prediction
from legion_jax.predict.predictor import Predictor
from legion_jax.weights.checkpoint import Checkpoint


class Detector(Protocol):
    """Photos in, predictions out.

    Attributes:
        batch_size: photos it works on at the same time.
        longest: px, the longer side of a photo in a view that keeps its shape, so that a photo too
            narrow for it vanishes; 0 without such a view.
    """

    batch_size: int
    longest: int

    def stream(self, items: Iterable[tuple[Any, np.ndarray | Image.Image]], *,
               explain: str = "fakes") -> Iterator[tuple[Any, Prediction]]:
        """Predict for (key, photo) pairs, which are taken only as they are needed.

        `explain` is one of `prediction.EXPLAIN`. Yields (key, prediction), each key once, in the
        order in which they are finished.
        """

    def verdict_logits(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Logits of the verdict before calibration, float32[N, classes]; NaN where there are none.
        """

    def identity(self) -> dict[str, Any]:
        """What its predictions depend on beside its checkpoint, JSON-ready."""


def open_detector(checkpoint: Checkpoint, **options: Any) -> Detector:
    """Load what a checkpoint holds; `options` as of `Predictor.from_checkpoint`."""
    return Predictor.from_checkpoint(checkpoint, **options)

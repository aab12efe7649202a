"""Our pipeline taken apart: time of every stage in one thread, padding, and what is checked."""

import time
from collections.abc import Sequence

import numpy as np

from input_pipeline.batches import examples, loader
from input_pipeline.batches.examples import ExampleSpec
from input_pipeline.batches.stream import WINDOW, Stream
from input_pipeline.photos import images, regions
from input_pipeline.records.record import Record
from input_pipeline.text import conversation
from input_pipeline.text.tokenizer import Tokenizer

REPEATS = 3  # of every stage of every photo; the fastest counts


def stage_times(source: Sequence[Record], tokenizer: Tokenizer, spec: ExampleSpec, *, photos: int,
                length: int, batch_size: int) -> dict[str, float]:
    """Milliseconds per photo of every stage, the median over the first `photos` records."""
    times: dict[str, list[float]] = {}

    def timed(stage, call, share=1):
        best = np.inf
        for _ in range(REPEATS):
            start = time.perf_counter()
            result = call()
            best = min(best, time.perf_counter() - start)
        times.setdefault(stage, []).append(1000 * best / share)
        return result

    needed = spec.least if spec.reduced_decoding else None
    for index in range(min(photos, len(source))):
        record = timed("read record", lambda i=index: source[i])
        photo, size = timed("decode", lambda r=record: images.read_photo(
            r.image, at_least=needed))
        timed("CLIP view", lambda p=photo: spec.vision.see(p))
        timed("SAM view", lambda p=photo: spec.sam.see(p))
        spans = timed("masks", lambda r=record, s=size: _masks(r, spec, s))
        timed("text", lambda r=record, s=spans: conversation.encode_example(
            tokenizer, examples.question_of(r, spec), examples.answer_of(r, s, spec),
            length=length))
    rows = [examples.training_example(tokenizer, spec, source[i % len(source)], length)
            for i in range(batch_size)]
    for _ in range(REPEATS):
        timed("stack", lambda: loader.stack(rows), batch_size)
    return {stage: float(np.median(values)) for stage, values in times.items()}


def _masks(record: Record, spec: ExampleSpec, size: tuple[int, int]) -> list[tuple[int, int]]:
    truth = examples.ground_truth(record, spec, size)
    regions.place_bits(truth.masks[:spec.mask_slots], spec.mask_slots, spec.mask_canvas)
    return truth.spans[:spec.mask_slots]


def padding(stream: Stream, lengths: np.ndarray, text_length: int) -> dict[str, dict]:
    """Share of padding ids per bucket over a window of batches, and with one length for all."""
    buckets = {str(length): {"share_of_batches": number / WINDOW, "padding": float(share)}
               for length, (number, share) in stream.padding(WINDOW).items()}
    used = np.minimum(lengths, text_length)
    return buckets | {"one length": {"share_of_batches": 1.0,
                                     "padding": float(1 - used.mean() / text_length)}}


def compare(source: Sequence[Record], spec: ExampleSpec, *, photos: int) -> dict[str, float]:
    """Our views of the first photos against the peer's: both must come to the same inputs.

    Returns `clip_bytes_different`, before normalising, and `sam_largest_difference` of the values
    the vision tower gets, ours normalised as on the device.
    """
    from legion_jax.models.sam_encoder import normalize
    from tools.bench_input import torch_loader
    wrong, largest = 0, 0.0
    for index in range(min(photos, len(source))):
        content = source[index].image
        photo, plain = images.read_photo(content)[0], torch_loader.decode(content)
        theirs = torch_loader.clip_pixels(plain, spec.vision.size)
        wrong += int((images.clip_image(photo, spec.vision.size) != theirs).sum())
        pixels, size = images.sam_image(photo, spec.sam.longest, spec.sam.canvas)
        ours = np.asarray(normalize(pixels[None], np.array([size], np.int32))[0])
        theirs = torch_loader.sam_tensor(plain, spec.sam.longest, spec.sam.canvas).numpy()
        largest = max(largest, float(np.abs(ours.transpose(2, 0, 1) - theirs).max()))
    return {"photos": min(photos, len(source)), "clip_bytes_different": wrong,
            "sam_largest_difference": largest}

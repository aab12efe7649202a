"""From the mask decoder's logits to the frame of the original photo, at fixed shapes.

The reference upsamples the 4Y x 4X logits to SAM's canvas, crops the part the photo covers and
resizes that to the photo, bilinearly and without antialiasing. Both resizes are linear maps along
each axis, so one small matrix per axis, built from *traced* sizes, does them together: one
executable serves every photo that fits the output canvas.
"""

import jax
import jax.numpy as jnp
import numpy as np

TILE = 512  # pixels; side of what `place` makes at once


def _upsampling_matrix(source: int, target: int) -> np.ndarray:
    """float32[target, source]: half-pixel bilinear resize with clamped edges."""
    centre = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(centre).astype(int)
    high = np.minimum(low + 1, source - 1)
    matrix = np.zeros((target, source), np.float32)
    np.add.at(matrix, (np.arange(target), low), 1 - (centre - low))
    np.add.at(matrix, (np.arange(target), high), centre - low)
    return matrix


def frame_matrix(source: int, sam_size: int, resized: jax.Array, original: jax.Array,
                 canvas: int, start: jax.Array | int = 0) -> jax.Array:
    """Matrix of one axis from mask-decoder cells to output pixels.

    Args:
        source: number of mask-decoder cells, 4Y.
        sam_size: side of SAM's canvas in pixels.
        resized: int scalar, pixels of that canvas the photo covers.
        original: int scalar, size of the photo.
        canvas: rows of the result; those from `original` on carry no meaning.
        start: int scalar, pixel of the first of them.

    Returns:
        float32[canvas, source].
    """
    up = jnp.asarray(_upsampling_matrix(source, sam_size))
    scale = resized.astype(jnp.float32) / original.astype(jnp.float32)
    centre = jnp.clip((start + jnp.arange(canvas) + 0.5) * scale - 0.5, 0, resized - 1)
    low = jnp.floor(centre).astype(jnp.int32)
    high = jnp.minimum(low + 1, resized - 1)  # clamps at the crop, not at the canvas
    part = (centre - low)[:, None]
    return (1 - part) * up[low] + part * up[high]


def to_frame(logits: jax.Array, resized: jax.Array, original: jax.Array, *, sam_size: int,
             canvas: int) -> jax.Array:
    """Mask logits in the frame of each photo.

    Args:
        logits: float32[B, K, 4Y, 4X].
        resized: int[B, 2], rows and columns of SAM's canvas that the photo covers.
        original: int[B, 2], rows and columns of the photo, at most `canvas`.
        sam_size: side of SAM's canvas; canvas: side C of the output.

    Returns:
        float32[B, K, C, C]; only the first `original` rows and columns carry meaning.
    """
    def frame_photo(logits, resized, original):
        rows, columns = (
            frame_matrix(logits.shape[1 + a], sam_size, resized[a], original[a], canvas)
            for a in (0, 1))
        return jnp.einsum("hy,kyx,wx->khw", rows, logits, columns,
                          precision=jax.lax.Precision.HIGHEST)

    return jax.vmap(frame_photo)(logits.astype(jnp.float32), resized, original)


def place(logits: jax.Array, resized: jax.Array, original: jax.Array, number: jax.Array, *,
          sam_size: int, canvas: int) -> tuple[jax.Array, jax.Array]:
    """Masks in the frame of their photo, as bits; one program for photos of every size.

    Made tile by tile, and only of the tiles that the photo covers: small photos cost little
    although the canvas has room for the largest.

    Args:
        logits: float32[B, K, 4Y, 4X].
        resized, original: int[B, 2] as in `to_frame`; number: int[B], masks that are wanted.
        canvas: side C of the result, a multiple of 8 and, if larger than TILE, of TILE.

    Returns:
        uint8[B, K, C, C / 8], bits as `np.packbits` makes them, zero outside the photo and in masks
        from `number` on; and float32[B, K], the mean probability inside each mask, 0 without one.
    """
    side = min(TILE, canvas)

    def place_photo(row):
        logits, resized, original, number = row
        tiles = -(-original // side)  # down and across

        def tile(n, carry):
            packed, total, count = carry
            mask, n = n // tiles.prod(), n % tiles.prod()
            start = jnp.stack([n // tiles[1], n % tiles[1]]) * side
            rows, columns = (frame_matrix(logits.shape[1 + a], sam_size, resized[a], original[a],
                                          side, start[a]) for a in (0, 1))
            values = jnp.einsum("hy,yx,wx->hw", rows, logits[mask], columns,
                                precision=jax.lax.Precision.HIGHEST)
            steps = jnp.arange(side)
            covered = ((start[0] + steps < original[0])[:, None]
                       & (start[1] + steps < original[1]))
            positive = (values > 0) & covered
            packed = jax.lax.dynamic_update_slice(
                packed, jnp.packbits(positive, axis=-1)[None], (mask, start[0], start[1] // 8))
            inside = jnp.where(positive, jax.nn.sigmoid(values), 0).sum()
            return packed, total.at[mask].add(inside), count.at[mask].add(positive.sum())

        K = logits.shape[0]
        packed, total, count = jax.lax.fori_loop(
            0, jnp.minimum(number, K) * tiles.prod(), tile,
            (jnp.zeros((K, canvas, canvas // 8), jnp.uint8), jnp.zeros(K), jnp.zeros(K, int)))
        return packed, total / jnp.maximum(count, 1)

    return jax.lax.map(place_photo, (logits.astype(jnp.float32), resized, original, number))


def inside(original: jax.Array, canvas: int) -> jax.Array:
    """bool[B, C, C]: which pixels of the canvas belong to the photo, int[B, 2]."""
    steps = jnp.arange(canvas)
    rows, columns = steps < original[:, :1], steps < original[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def targets(masks: jax.Array) -> jax.Array:
    """Ground truth float32[..., C, C], 0 to 1.

    Args:
        masks: uint8[..., C, C / 8] of bits, see `unpack`, or uint8[..., C, C] of 0 to 255.
    """
    if masks.shape[-1] == masks.shape[-2]:
        return masks.astype(jnp.float32) / 255
    return unpack(masks)


def unpack(packed: jax.Array) -> jax.Array:
    """uint8[..., C, C / 8] -> float32[..., C, C] of 0 and 1; first bit is the leftmost pixel."""
    bits = (packed[..., None] >> jnp.arange(7, -1, -1, dtype=jnp.uint8)) & 1
    return bits.reshape(*packed.shape[:-1], -1).astype(jnp.float32)

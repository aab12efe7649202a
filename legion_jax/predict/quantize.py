"""The language model's kernels as int8, for prediction: half of bfloat16's memory traffic.

Decoding reads every parameter for every token, so its speed on an accelerator is that of the
memory. A kernel becomes round(W / s) with one factor s per column, the largest magnitude of the
column over 127 (as LLM.int8's vector-wise weights, Dettmers et al., 2022, without its outliers);
activations stay as they are. The verdict, CLIP and SAM do not change.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp

KERNELS = r"^language/(layers/(query|key|value|out|gate|up|down)|head)/kernel$"


def quantize(params: dict[str, Any]) -> dict[str, Any]:
    """{path: array} with int8 kernels and their factors, `.../kernel_scale`.

    One kernel is converted after the other and leaves `params`, so that both kinds of a kernel
    lie in memory, but not of all kernels.
    """
    convert = jax.jit(int8_columns)
    for path in [path for path in params if re.search(KERNELS, path)]:
        params[path], params[f"{path}_scale"] = convert(params.pop(path))
    return params


def int8_columns(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[..., D, F] -> int8[..., D, F] and float32[..., F]; a column of zeros has the factor 1."""
    kernel = kernel.astype(jnp.float32)
    largest = jnp.abs(kernel).max(-2)
    scale = jnp.where(largest > 0, largest, 127) / 127
    return jnp.round(kernel / scale[..., None, :]).astype(jnp.int8), scale

"""How the kernels of a gated cell start: those of all its gates lie side by side in one array."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def side_by_side(initializer: Callable, width: int) -> Callable:
    """An initializer of kernels [..., C, k width] that draws each of the k kernels [..., C, width] by itself.

    By the size of all gates together Glorot's rule (Glorot and Bengio 2010, equation 16) would make them smaller, and
    they learn much slower then.
    """

    def init(key, shape, dtype=jnp.float32):
        # One after the other: a process with one CPU device waits for ever for two batches of QR decompositions, those
        # of orthogonal kernels of two layers (jaxlib 0.10.2, on 2 cores).
        keys = jax.random.split(key, shape[-1] // width)
        return jnp.stack([initializer(key, (*shape[:-1], width), dtype) for key in keys], -2).reshape(shape)

    return init

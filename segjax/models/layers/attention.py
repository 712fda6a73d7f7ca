"""Softmax attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1), and what makes its maps visible."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.core.batch import ATTENTION

CHUNK = 256
"""Queries that are looked up at once where the whole matrix of weights would be large."""

LARGE = 2**20
"""Weights of one head and example from which on the matrix is computed in chunks."""

FORMS = ("auto", "whole", "chunked", "cudnn")


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    *,
    scale: float | None = None,
    form: str = "auto",
) -> jax.Array:
    """softmax(scale * query key^T + bias) value, for each example and head by itself.

    Args:
      query: floating [N, L, heads, D].
      key: [N, S, heads, D].
      value: [N, S, heads, E].
      bias: float32, broadcast to [N, heads, L, S]; -inf forbids a key, and every query needs one that is allowed.
      scale: 1 / sqrt(D) where None.
      form: "whole" computes all weights at once; "chunked" those of CHUNK queries at a time, and computes them again
        for the gradient, so that memory is linear in L and in S; "cudnn" is cuDNN's flash attention. "auto" is what
        `chosen_form` says.
    Returns:
      [N, L, heads, E] of value's dtype; scores and softmax are float32.
    Raises:
      ValueError: an unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"the form of attention must be one of {', '.join(FORMS)}; received {form!r}")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    form = chosen_form(query, key, value, bias) if form == "auto" else form
    if form == "cudnn":
        bias = None if bias is None else bias.astype(query.dtype)
        return jax.nn.dot_product_attention(query, key, value, bias, scale=scale, implementation="cudnn")
    if form == "chunked":
        return _chunked(query, key, value, bias, scale)
    if key.shape == value.shape:
        return jax.nn.dot_product_attention(query, key, value, bias, scale=scale).astype(value.dtype)
    return jnp.einsum("nhls,nshe->nlhe", weights(query, key, bias, scale=scale).astype(value.dtype), value)


def chosen_form(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None) -> str:
    """What "auto" is: cudnn on GPUs in 16 bits where cuDNN has it; else by the size of the matrix of weights."""
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    fits = key.shape == value.shape and key.shape[-1] % 8 == 0 and key.shape[-1] <= 128
    if half and fits and bias is None and jax.default_backend() == "gpu":
        return "cudnn"
    return "chunked" if query.shape[1] > CHUNK and query.shape[1] * key.shape[1] >= LARGE else "whole"


def weights(query: jax.Array, key: jax.Array, bias: jax.Array | None = None, *, scale: float) -> jax.Array:
    """softmax(scale * query key^T + bias), float32 [N, heads, L, S]: the map itself, quadratic in memory."""
    scores = jnp.einsum("nlhd,nshd->nhls", query, key, preferred_element_type=jnp.float32) * scale
    return jax.nn.softmax(scores if bias is None else scores + bias)


def _chunked(query, key, value, bias, scale):
    batch, length, heads, _ = query.shape
    count = -(-length // CHUNK)
    padded = jnp.pad(query, ((0, 0), (0, count * CHUNK - length), (0, 0), (0, 0)))
    chunks = [padded.reshape(batch, count, CHUNK, heads, -1).swapaxes(0, 1)]
    if bias is not None and bias.shape[-2] > 1:
        rows = jnp.pad(bias, (*((0, 0),) * (bias.ndim - 2), (0, count * CHUNK - length), (0, 0)))
        rows = rows.reshape(*bias.shape[:-2], count, CHUNK, bias.shape[-1])
        chunks.append(jnp.moveaxis(rows, -3, 0))
        bias = None

    @jax.checkpoint
    def look_up(chunk):
        query, *rows = chunk
        found = weights(query, key, rows[0] if rows else bias, scale=scale).astype(value.dtype)
        return jnp.einsum("nhls,nshe->nlhe", found, value)

    found = jax.lax.map(look_up, tuple(chunks))
    return found.swapaxes(0, 1).reshape(batch, count * CHUNK, heads, -1)[:, :length]


def keep_map(module: nn.Module, name: str, found: Any) -> None:
    """Leave a map in the collection ATTENTION, where the caller asked for that by making it mutable.

    Args:
      module: the linen module that computed it.
      name: of the map in that module.
      found: a function without arguments that gives the map, so that nothing is computed where nobody looks. The map is
        float32 [N, H, W] (the weight of each pixel: a gate), or [N, heads, H, W, H', W'] (of each query of a grid of
        H x W, the weights of its keys on a grid of H' x W', which for a softmax add up to 1; Q queries that are no
        pixels are a grid of Q x 1 or 1 x Q).
    """
    if module.is_mutable_collection(ATTENTION) and not module.is_initializing():
        module.sow(ATTENTION, name, found(), reduce_fn=lambda old, new: new, init_fn=lambda: None)

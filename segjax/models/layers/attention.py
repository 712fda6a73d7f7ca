"""Softmax attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1), and what makes its maps visible."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.core.batch import ATTENTION
from segjax.core.sharding import gather_rows, row_parts

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
    if half and fits and bias is None and _has_cudnn_attention():
        return "cudnn"
    return "chunked" if query.shape[1] > CHUNK and query.shape[1] * key.shape[1] >= LARGE else "whole"


def _has_cudnn_attention():
    """cuDNN's attention needs an NVIDIA GPU of compute capability 8.0 or more; those of others call it otherwise."""
    if jax.default_backend() != "gpu":
        return False
    major = str(getattr(jax.devices()[0], "compute_capability", "")).partition(".")[0]
    return major.isdigit() and int(major) >= 8


def weights(query: jax.Array, key: jax.Array, bias: jax.Array | None = None, *, scale: float) -> jax.Array:
    """softmax(scale * query key^T + bias), float32 [N, heads, L, S]: the map itself, quadratic in memory."""
    scores = jnp.einsum("nlhd,nshd->nhls", query, key, preferred_element_type=jnp.float32) * scale
    return jax.nn.softmax(scores if bias is None else scores + bias)


def _chunked(query, key, value, bias, scale):
    length = query.shape[1]
    # Rows that lie on several devices are parts of the queries, of which each has a chunk of its own at a time: a loop
    # over chunks that lie on different devices would gather them all.
    parts = row_parts() if length % row_parts() == 0 else 1
    key, value = gather_rows(key), gather_rows(value)  # once, and not in the loop
    part = length // parts
    count = -(-part // CHUNK)

    def cut(rows, axis):
        """[..., L, ...] -> [count, ..., parts * CHUNK, ...], zeros where there are no more queries."""
        before, after = rows.shape[:axis], rows.shape[axis + 1 :]
        widths = [(0, 0)] * (rows.ndim + 1)
        widths[axis + 1] = (0, count * CHUNK - part)
        rows = jnp.pad(rows.reshape(*before, parts, part, *after), widths)
        rows = jnp.moveaxis(rows.reshape(*before, parts, count, CHUNK, *after), axis + 1, 0)
        return rows.reshape(count, *before, parts * CHUNK, *after)

    chunks = [cut(query, 1)]
    if bias is not None and bias.shape[-2] > 1:
        chunks.append(cut(bias, bias.ndim - 2))
        bias = None

    @jax.checkpoint
    def look_up(chunk):
        query, *rows = chunk
        found = weights(query, key, rows[0] if rows else bias, scale=scale).astype(value.dtype)
        return jnp.einsum("nhls,nshe->nlhe", found, value)

    found = jax.lax.map(look_up, tuple(chunks))  # [count, N, parts * CHUNK, heads, E]
    found = jnp.moveaxis(found.reshape(count, found.shape[1], parts, CHUNK, *found.shape[3:]), 0, 2)
    found = found.reshape(*found.shape[:2], count * CHUNK, *found.shape[4:])[:, :, :part]
    return found.reshape(found.shape[0], length, *found.shape[3:])


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

"""Multi-scale deformable attention. Zhu et al., "Deformable DETR", ICLR 2021, arXiv:2010.04159, section 4.1.

Each query looks at a few points of each level of a pyramid of features, at places that it chooses itself, and weighs
what it finds there. Compared with multi_scale_deformable_attention of Hugging Face's transformers, which samples with
PyTorch's grid_sample.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def deformable_attention(values: Sequence[jax.Array], places: jax.Array, weights: jax.Array) -> jax.Array:
    """Sums of bilinear samples (equation 3 without its projections).

    Memory is linear in the queries, and the samples are taken again for the gradient instead of being kept. The
    gradient with respect to a place on a pixel's centre is that to its right and downwards.

    Args:
      values: floating [N, H, W, heads, D], of each level; zeros lie outside of it.
      places: float32 [N, L, heads, levels, points, 2]: (x, y) in pixels of the level, the first one's centre at 0.
      weights: float32 [N, L, heads, levels, points].
    Returns:
      float32 [N, L, heads, D].
    """
    sample = jax.checkpoint(_weighted_samples)
    return sum(sample(value, places[:, :, :, i], weights[:, :, :, i]) for i, value in enumerate(values))


def _weighted_samples(value, places, weights):
    batch, height, width, heads, _ = value.shape
    rows = value.astype(jnp.float32).reshape(batch, height * width * heads, -1)
    corner = jnp.floor(places)
    right, down = jnp.moveaxis(places - corner, -1, 0)
    # As integers only within reach: a place may be further away than an int32 counts.
    column, row = jnp.moveaxis(jnp.clip(corner, -2, jnp.array([width, height]) + 1).astype(jnp.int32), -1, 0)
    head = jnp.arange(heads)[:, None]
    total = 0.0
    for y, share_y in ((row, 1 - down), (row + 1, down)):
        for x, share_x in ((column, 1 - right), (column + 1, right)):
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            index = (jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)) * heads + head
            found = jax.vmap(lambda rows, index: rows.at[index].get(mode="promise_in_bounds"))(rows, index)
            share = jnp.where(inside, weights * share_y * share_x, 0.0)
            total = total + jnp.einsum("nlhp,nlhpd->nlhd", share, found)
    return total


def ring(heads: int, levels: int, points: int) -> np.ndarray:
    """Offsets with which training starts (appendix A.4): float32 [heads, levels, points, 2].

    Each head looks in a direction of its own, its points 1, 2, ... pixels away, on the border of a square.
    """
    angle = 2 * np.pi * np.arange(heads) / heads
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    direction /= np.abs(direction).max(-1, keepdims=True)
    steps = np.arange(1, points + 1)[:, None] * direction[:, None, None]
    return np.broadcast_to(steps, (heads, levels, points, 2)).astype(np.float32)


class DeformableAttention(nn.Module):
    """The pixels of all levels of a pyramid look at points of all levels (equation 3).

    Params: `offsets`, `weights`, `value` and `out`, dense layers. At the start the offsets are `ring` and the weights
    all the same, whatever the query (appendix A.4).

    Attributes:
      heads: each sees C / heads channels.
      points: of each head on each level.
      dtype: compute dtype; places, weights and sums are float32.
    """

    heads: int = 8
    points: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query: jax.Array, value: jax.Array, sizes: Sequence[tuple[int, int]]) -> jax.Array:
        """query and value [N, S, C], the pixels of one level after the other, to [N, S, C] of `dtype`.

        sizes: height and width of each level, S pixels in all.
        """
        batch, _, channels = value.shape
        samples = (self.heads, len(sizes), self.points)

        def start(key, shape, dtype):
            return jnp.asarray(ring(*samples).ravel(), dtype)

        def dense(features, name, kernel_init=nn.initializers.zeros, bias_init=nn.initializers.zeros):
            return nn.Dense(features, dtype=self.dtype, kernel_init=kernel_init, bias_init=bias_init, name=name)

        xavier = nn.initializers.xavier_uniform()
        count = int(np.prod(samples))
        offsets = dense(2 * count, "offsets", bias_init=start)(query).astype(jnp.float32)
        places = _own_places(sizes)[:, None, :, None] + offsets.reshape(batch, -1, *samples, 2)
        logits = dense(count, "weights")(query).astype(jnp.float32).reshape(batch, -1, self.heads, count // self.heads)
        weights = jax.nn.softmax(logits).reshape(places.shape[:-1])
        value = dense(channels, "value", xavier)(value)
        ends = np.cumsum([height * width for height, width in sizes])[:-1]
        levels = [
            level.reshape(batch, *size, self.heads, -1)
            for level, size in zip(jnp.split(value, ends, axis=1), sizes, strict=True)
        ]
        found = deformable_attention(levels, places, weights).astype(self.dtype)
        return dense(channels, "out", xavier)(found.reshape(batch, -1, channels))


def _own_places(sizes):
    """Where the pixels of each level lie on every level: float32 [S, levels, 2], as `places` above."""

    def along(length, lengths):
        scale = np.array(lengths) / length
        return (np.arange(length)[:, None] + 0.5) * scale - 0.5

    heights, widths = zip(*sizes, strict=True)
    places = []
    for height, width in sizes:
        y, x = along(height, heights)[:, None], along(width, widths)[None]
        places.append(np.stack(np.broadcast_arrays(x, y), axis=-1).reshape(height * width, len(sizes), 2))
    return np.concatenate(places).astype(np.float32)

"""The block of a vision transformer, and its normalisation.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929, equations 2 and 3 and figure 1 (the
encoder): normalisation before each branch, GELU, and a residual sum after it.

Deviation: `dropout` is that of each branch's results; the weights of attention are never dropped, since attention()
does not keep them.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.attention import attention, keep_map, weights
from segjax.models.layers.drop_path import DropPath

# In one pass the variance is a difference of two means, which has no digits left where values are nearly equal.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)
"""`flax.linen.LayerNorm`, statistics in float32, the variance in a second pass."""

KERNEL_INIT = nn.initializers.normal(0.02)
"""Of the dense layers of vision transformers, as in the code of ViT's, SegFormer's and Segmenter's authors."""

Dense = functools.partial(nn.Dense, kernel_init=KERNEL_INIT)
"""`flax.linen.Dense` that starts as KERNEL_INIT."""


class MLP(nn.Module):
    """Two dense layers with a GELU between them, of each pixel or token by itself: `fc1` and `fc2`.

    Attributes:
      hidden: features between the two.
      dropout: rate after each of them.
      dtype: compute dtype.
    """

    hidden: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[..., C] to the same shape, of `dtype`. Needs the "dropout" rng in training where `dropout` is not 0."""
        channels = x.shape[-1]
        x = nn.gelu(Dense(self.hidden, dtype=self.dtype, name="fc1")(x), approximate=False)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = Dense(channels, dtype=self.dtype, name="fc2")(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class SelfAttention(nn.Module):
    """Attention of all tokens to all tokens: the dense layers `qkv`, of query, key and value in one, and `proj`.

    Attributes:
      heads: each sees channels / heads of query, key and value.
      dtype: compute dtype.
      attend: False gives every key the same weight, with the same parameters.
    """

    heads: int
    dtype: Any = jnp.float32
    attend: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, grid: tuple[int, int], first: int) -> jax.Array:
        """[N, L, C] to the same shape, of `dtype`.

        Tokens `first` to first + H * W of L are the pixels of a grid of (H, W). The map `attention` that is kept is
        that of pixels to pixels, [N, heads, H, W, H, W], whose weights are scaled to add up to 1 without the others.
        """
        batch, length, channels = x.shape
        query, key, value = jnp.split(Dense(3 * channels, dtype=self.dtype, name="qkv")(x), 3, axis=-1)
        query, key, value = (y.reshape(batch, length, self.heads, -1) for y in (query, key, value))
        scale = query.shape[-1] ** -0.5 if self.attend else 0.0

        def pixels_map():
            pixels = slice(first, first + grid[0] * grid[1])
            found = weights(query[:, pixels], key[:, pixels], scale=scale)
            return found.reshape(batch, self.heads, *grid, *grid)

        keep_map(self, "attention", pixels_map)
        found = attention(query, key, value, scale=scale).reshape(x.shape)
        return Dense(channels, dtype=self.dtype, name="proj")(found)


class TransformerBlock(nn.Module):
    """Self-attention and MLP, each normalised before and added to its input: `norm1`, `attn`, `norm2`, `mlp`.

    Attributes:
      heads: of attention.
      hidden: features between the layers of the MLP.
      dropout: rate after each branch's dense layers.
      drop_path: rate at which a branch is dropped for a whole example.
      epsilon: of the normalisations.
      dtype: compute dtype.
      attend: see `SelfAttention`.
    """

    heads: int
    hidden: int
    dropout: float = 0.0
    drop_path: float = 0.0
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    attend: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, grid: tuple[int, int], first: int, *, train: bool) -> jax.Array:
        """[N, L, C] to the same shape; `grid` and `first` as in `SelfAttention`. Needs the "dropout" rng in training
        where a rate is not 0."""
        y = LayerNorm(self.epsilon, dtype=self.dtype, name="norm1")(x)
        y = SelfAttention(self.heads, self.dtype, self.attend, name="attn")(y, grid, first)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        x = x + DropPath(self.drop_path)(y, train=train)
        y = LayerNorm(self.epsilon, dtype=self.dtype, name="norm2")(x)
        y = MLP(self.hidden, self.dropout, self.dtype, name="mlp")(y, train=train)
        return x + DropPath(self.drop_path)(y, train=train)

"""Softmax attention between feature maps whose pixels are queries and keys, and the block of DANet and CCNet."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.attention import attention, keep_map, weights
from segjax.models.layers.conv import Conv


def attend(query: jax.Array, key: jax.Array, value: jax.Array, *, scale: float) -> jax.Array:
    """`attention` of every pixel of query to all of key, with one head.

    query [N, H, W, D], key [N, H', W', D] and value [N, H', W', E] to [N, H, W, E] of value's dtype.
    """
    found = attention(*map(as_sequence, (query, key, value)), scale=scale)
    return found.reshape(*query.shape[:3], value.shape[-1])


def attention_map(query: jax.Array, key: jax.Array, *, scale: float) -> jax.Array:
    """The weights of `attend`, float32 [N, 1, H, W, H', W']: quadratic in memory."""
    found = weights(as_sequence(query), as_sequence(key), scale=scale)
    return found.reshape(-1, 1, *query.shape[1:3], *key.shape[1:3])


def as_sequence(x: jax.Array) -> jax.Array:
    """[N, H, W, D] to [N, H W, 1, D], as `attention` takes it."""
    return x.reshape(x.shape[0], -1, 1, x.shape[-1])


class SelfAttention(nn.Module):
    """x + scale * look_up(query(x), key(x), value(x)), where `scale` is a parameter of shape [1] that starts at 0.

    Zhang et al. 2019, "Self-Attention Generative Adversarial Networks", arXiv:1805.08318, section 3: query, key and
    value are 1x1 convolutions, the first two to an eighth of the channels, and scores are not divided by sqrt(D).

    Attributes:
      look_up: function of query and key [N, H, W, D] and value [N, H, W, C] to [N, H, W, C]: of each pixel, the mean of
        the values weighted by its attention.
      dense_map: function of query and key to these weights, float32 [N, 1, H, W, H, W], for `keep_map`.
      attention: False gives every pixel its own value, as if it attended to itself alone; query and key stay among the
        parameters and have no effect.
      dtype: compute dtype.
    """

    look_up: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    dense_map: Callable[[jax.Array, jax.Array], jax.Array]
    attention: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same shape, of `dtype`."""
        channels = x.shape[-1]
        squeezed = max(channels // 8, 1)
        query, key, value = (
            Conv(features, (1, 1), dtype=self.dtype, name=name)(x)
            for name, features in (("query", squeezed), ("key", squeezed), ("value", channels))
        )
        if self.attention:
            keep_map(self, "map", lambda: self.dense_map(query, key))
            value = self.look_up(query, key, value)
        return add_scaled(self, x.astype(self.dtype), value)


def add_scaled(module: nn.Module, x: jax.Array, found: jax.Array) -> jax.Array:
    """x + scale * found, with a parameter `scale` of `module`, float32 [1], that starts at 0."""
    scale = module.param("scale", nn.initializers.zeros, (1,), jnp.float32)
    return x + scale.astype(x.dtype) * found

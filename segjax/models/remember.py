"""Where a recurrent network enters an image network, and the states that it keeps from call to call."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.core.batch import MEMORY

Remember = Callable[[int, jax.Array], jax.Array]
"""(stride, features [N, H, W, C]) -> features; N is smaller where only some frames of a clip go to the decoder."""


def pass_on(stride: int, features: jax.Array) -> jax.Array:
    """The features as they are: a network of single images."""
    del stride
    return features


def empty_memory(model: nn.Module, variables: Any, clips: jax.Array) -> dict[str, Any]:
    """{MEMORY: states of zeros for clips [N, T, H, W, C]}, or {} where the model keeps none. Nothing is computed."""

    def states(variables, clips):
        return model.apply(variables, clips, mutable=[MEMORY])[1]

    return jax.tree.map(lambda state: jnp.zeros(state.shape, state.dtype), jax.eval_shape(states, variables, clips))

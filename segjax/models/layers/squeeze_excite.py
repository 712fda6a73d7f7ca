"""Squeeze-and-excitation (Hu, Shen and Sun, CVPR 2018, arXiv:1709.01507, figure 1 and equations 2 to 4)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.conv import Conv


class SqueezeExcite(nn.Module):
    """Weighs each channel by a function of all channels' means over the image.

    Its two fully connected layers are 1x1 convolutions with bias, named `fc1` and `fc2` as in torchvision.

    Attributes:
      squeezed: channels between the two layers, C / r in the paper.
      gate: of the weights; the paper's sigmoid, or the hard sigmoid of MobileNetV3 (section 5.2).
      dtype: compute dtype; the mean is taken in float32.
    """

    squeezed: int
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same shape, of `dtype`."""
        weights = x.mean((1, 2), keepdims=True, dtype=jnp.float32)
        weights = nn.relu(Conv(self.squeezed, (1, 1), dtype=self.dtype, name="fc1")(weights))
        weights = self.gate(Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="fc2")(weights))
        return x.astype(self.dtype) * weights

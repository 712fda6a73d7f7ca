"""Normalisation, ReLU, convolution, in this order: the layer of densely connected networks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.conv import Conv
from segjax.models.layers.norm import BatchNorm


class NormReluConv(nn.Module):
    """Batch normalisation, ReLU and convolution with padding "SAME". Its parts are named `norm` and `conv`.

    Attributes:
      features: output channels.
      kernel_size, dilation, use_bias, kernel_init: of the convolution.
      epsilon: of the normalisation, see `BatchNorm`.
      dropout: rate after the convolution; where it is not 0 training needs the "dropout" rng.
      dtype: compute dtype.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    dilation: tuple[int, int] = (1, 1)
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    epsilon: float = 1e-5
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to [N, H, W, features] of `dtype`."""
        x = nn.relu(BatchNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x, train=train))
        x = Conv(
            self.features,
            self.kernel_size,
            kernel_dilation=self.dilation,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)

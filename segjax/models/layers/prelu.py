"""The rectifier with a learned slope."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class PReLU(nn.Module):
    """max(x, 0) + slope * min(x, 0) with a slope for each channel (He et al. 2015, arXiv:1502.01852, equation 1).

    Attributes:
      slope_init: of the param `slope`, float32 [C]; 0.25 as in the paper.
      dtype: compute dtype.
    """

    slope_init: nn.initializers.Initializer = nn.initializers.constant(0.25)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] to [..., C] of `dtype`; the gradient at 0 is the slope, as in PyTorch."""
        slope = self.param("slope", self.slope_init, (x.shape[-1],), jnp.float32)
        x = x.astype(self.dtype)
        return jnp.where(x > 0, x, slope.astype(self.dtype) * x)

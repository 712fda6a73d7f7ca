"""Concurrent spatial and channel squeeze-and-excitation (Roy, Navab and Wachinger, MICCAI 2018, arXiv:1803.02579)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.attention import keep_map
from segjax.models.layers.conv import Conv
from segjax.models.layers.squeeze_excite import SqueezeExcite


class SCSE(nn.Module):
    """x weighed by channel plus x weighed by pixel: scSE of figure 1, the sum of cSE and sSE.

    Its parts are `channel`, a `SqueezeExcite`, and `spatial`, a 1x1 convolution to the pixels' weights, which are kept
    as the map `weights`.

    Attributes:
      reduction: channels of x for each one (of at least one) between the two layers of `channel`: 2 in the paper, 16
        in segmentation_models.pytorch.
      dtype: compute dtype; the weights of pixels are float32.
    """

    reduction: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same shape, of `dtype`."""
        by_channel = SqueezeExcite(max(x.shape[-1] // self.reduction, 1), dtype=self.dtype, name="channel")(x)
        scores = Conv(1, (1, 1), dtype=self.dtype, name="spatial")(x)
        weights = nn.sigmoid(scores.astype(jnp.float32))
        keep_map(self, "weights", lambda: weights[..., 0])
        return by_channel + x.astype(self.dtype) * weights.astype(self.dtype)

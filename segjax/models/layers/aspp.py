"""Atrous spatial pyramid pooling with image-level features: DeepLab v3's, which v3+ took over.

Chen et al. 2017, arXiv:1706.05587, section 3.3 and figure 5. Compared with torchvision's and, for the separable form
(Chen et al. 2018, arXiv:1802.02611, section 3.1), with segmentation_models.pytorch's. (The pyramid of DeepLab v2 sums
scores instead of concatenating features: segjax/models/deeplab_v2.py.)
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.conv import ConvBlock
from segjax.models.layers.separable import SeparableConvBlock


class ASPP(nn.Module):
    """1x1, dilated 3x3 and pooled branch, concatenated and projected: `branch_0`, `branch_1` ..., `pooling`, `project`.

    Attributes:
      rates: dilation of each 3x3 convolution.
      features: channels of each branch and of the result, 256 as published.
      separable: depthwise separable 3x3 convolutions.
      depthwise_norm: see `SeparableConvBlock`.
      dropout: rate after the projection; not in the papers, but in all reference codes.
      dtype: compute dtype.
      pooling: with the pooled branch, the image-level features; without, the pyramid alone (Chen et al. 2017, table 5).
    """

    rates: tuple[int, ...]
    features: int = 256
    separable: bool = False
    depthwise_norm: bool = True
    dropout: float = 0.5
    dtype: Any = jnp.float32
    pooling: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to [N, H, W, features] of `dtype`. Needs the "dropout" rng in training."""
        branches = [self._pointwise(x, "branch_0", train)]
        for i, rate in enumerate(self.rates, start=1):
            branches.append(self._dilated(rate, f"branch_{i}")(x, train=train))
        if self.pooling:
            pooled = x.mean((1, 2), keepdims=True, dtype=jnp.float32).astype(self.dtype)
            pooled = self._pointwise(pooled, "pooling", train)
            branches.append(jnp.broadcast_to(pooled, branches[0].shape))  # bilinear interpolation of one pixel
        y = self._pointwise(jnp.concatenate(branches, axis=-1), "project", train)
        return nn.Dropout(self.dropout, deterministic=not train)(y)

    def _pointwise(self, x, name, train):
        return ConvBlock(self.features, (1, 1), dtype=self.dtype, name=name)(x, train=train)

    def _dilated(self, rate, name):
        if self.separable:
            return SeparableConvBlock(
                self.features, dilation=rate, depthwise_norm=self.depthwise_norm, dtype=self.dtype, name=name
            )
        return ConvBlock(self.features, padding=rate, dilation=(rate, rate), dtype=self.dtype, name=name)

"""Depthwise separable convolution (Sifre 2014; Chollet 2017, arXiv:1610.02357; Chen et al. 2018, arXiv:1802.02611)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.conv import Conv, ConvBlock


class SeparableConvBlock(nn.Module):
    """3x3 depthwise convolution, 1x1 convolution, batch normalisation, activation: `depthwise` and `pointwise`.

    Attributes:
      features: output channels.
      stride, dilation: of the depthwise convolution, which is padded by `dilation` on all sides.
      depthwise_norm: normalise, and activate, after the depthwise convolution too, as the networks of DeepLab do.
      activation: function of an array, or None.
      depthwise_activation: the same, after the depthwise convolution's normalisation.
      epsilon, momentum: of the normalisations.
      dtype: compute dtype.
    """

    features: int
    stride: int = 1
    dilation: int = 1
    depthwise_norm: bool = True
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    depthwise_activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    epsilon: float = 1e-5
    momentum: float = 0.9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), features] of `dtype`."""
        norm = dict(epsilon=self.epsilon, momentum=self.momentum)
        depthwise = dict(
            features=x.shape[-1],
            kernel_size=(3, 3),
            strides=(self.stride, self.stride),
            padding=self.dilation,
            dtype=self.dtype,
            name="depthwise",
        )
        dilation = (self.dilation, self.dilation)
        if self.depthwise_norm:
            x = ConvBlock(
                **depthwise, dilation=dilation, groups=x.shape[-1], activation=self.depthwise_activation, **norm
            )(x, train=train)
        else:
            init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")  # no activation follows it
            x = Conv(
                **depthwise,
                kernel_dilation=dilation,
                feature_group_count=x.shape[-1],
                use_bias=False,
                kernel_init=init,
            )(x)
        return ConvBlock(self.features, (1, 1), activation=self.activation, dtype=self.dtype, name="pointwise", **norm)(
            x, train=train
        )

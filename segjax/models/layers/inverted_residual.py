"""The inverted residual block of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381, section 3.3 and table 1), and of
MobileNetV3 (Howard et al. 2019, arXiv:1905.02244, section 3 and figure 4), which adds squeeze-and-excitation.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.conv import ConvBlock
from segjax.models.layers.squeeze_excite import SqueezeExcite


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection.

    Its parts are `expand`, `depthwise`, `squeeze_excite` and `project`.

    Attributes:
      features: output channels.
      expanded: channels of the depthwise convolution; where the input has as many there is no expansion.
      kernel, stride, dilation: of the depthwise convolution, padded on all sides alike.
      squeezed: channels inside the squeeze-and-excitation after the depthwise convolution; 0 is without.
      shortcut: adds the input where it has as many channels as the output.
      activation: after the expansion and after the depthwise convolution.
      epsilon, momentum: of the normalisations.
      dtype: compute dtype.
    """

    features: int
    expanded: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    squeezed: int = 0
    shortcut: bool = True
    activation: Callable[[jax.Array], jax.Array] = nn.relu6
    epsilon: float = 1e-5
    momentum: float = 0.9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), features] of `dtype`."""
        y, common = x, dict(epsilon=self.epsilon, momentum=self.momentum, dtype=self.dtype)
        if self.expanded != x.shape[-1]:
            y = ConvBlock(self.expanded, (1, 1), activation=self.activation, name="expand", **common)(y, train=train)
        y = ConvBlock(
            self.expanded,
            (self.kernel, self.kernel),
            strides=(self.stride, self.stride),
            padding=self.kernel // 2 * self.dilation,
            dilation=(self.dilation, self.dilation),
            groups=self.expanded,
            activation=self.activation,
            name="depthwise",
            **common,
        )(y, train=train)
        if self.squeezed:
            y = SqueezeExcite(self.squeezed, nn.hard_sigmoid, self.dtype, name="squeeze_excite")(y)
        y = ConvBlock(self.features, (1, 1), activation=None, name="project", **common)(y, train=train)
        return x + y if self.shortcut and x.shape[-1] == self.features else y

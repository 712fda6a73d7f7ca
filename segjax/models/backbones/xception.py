"""Xception-65 as modified for DeepLab v3+. Chen et al., ECCV 2018, arXiv:1802.02611, section 3.2 and figure 4.

After Chollet, CVPR 2017, arXiv:1610.02357, and the aligned Xception of Qi et al. 2017 (COCO challenge). Compared with
timm's xception65, which takes over the authors' weights; the dilation and the place where the decoder reads are those
of the authors' TensorFlow code (github.com/tensorflow/models, research/deeplab): features before the ReLU of an entry
flow block's last convolution.

Deviations: the running statistics have momentum 0.9 where the authors' code has 0.9997, which needs their long
schedule; weights start as He et al. 2015.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.layers.conv import ConvBlock
from segjax.models.layers.separable import SeparableConvBlock

ENTRY = (128, 256, 728)
"""Channels of the three modules of the entry flow, each of which halves the resolution."""

MIDDLE, REPEATS = 728, 16
"""Channels and number of the modules of the middle flow."""

EXIT = ((728, 1024, 1024), (1536, 1536, 2048))
"""Channels of the separable convolutions of the exit flow."""

EPSILON = 1e-3
"""Of every normalisation."""


class Xception65(nn.Module):
    """Xception-65 without pooling and classifier. Its parts are `conv1`, `conv2` and `module0` to `module20`.

    Attributes:
      dtype: compute dtype.
      output_stride: of the deepest features: 32, 16 or 8.
      middle_repeats: modules of the middle flow, 16 as published.
      width_multiplier: factor on all channels; 1 as published.
    """

    dtype: Any = jnp.float32
    output_stride: int = 32
    middle_repeats: int = REPEATS
    width_multiplier: float = 1.0

    def __post_init__(self):
        if self.output_stride not in (32, 16, 8) or self.middle_repeats < 0 or self.width_multiplier <= 0:
            raise ValueError(
                "Xception65 needs output_stride in (32, 16, 8), middle_repeats >= 0 and width_multiplier > 0; received"
                f" output_stride={self.output_stride!r}, middle_repeats={self.middle_repeats!r},"
                f" width_multiplier={self.width_multiplier!r}"
            )
        super().__post_init__()

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        channels = (*ENTRY, EXIT[0][1], EXIT[1][-1])
        levels = zip((2, 4, 8, 16, 32), channels, strict=True)
        return tuple(
            FeatureInfo(level, min(level, self.output_stride), self._channels(count)) for level, count in levels
        )

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """{level: features}; image floating [N, H, W, C], any H and W >= 1.

        Level 2, 4, 8 and 16: what the last convolution of that resolution, which halves it, reads, before its ReLU.
        Level 32: the output. Features are of `dtype` and have ceil(H / stride) rows.
        """
        x = image.astype(self.dtype)
        for name, features, stride in (("conv1", 32, 2), ("conv2", 64, 1)):
            x = ConvBlock(
                self._channels(features),
                strides=(stride, stride),
                padding=1,
                epsilon=EPSILON,
                dtype=self.dtype,
                name=name,
            )(x, train=train)
        modules = [(3 * (features,), True) for features in ENTRY]
        modules += self.middle_repeats * [(3 * (MIDDLE,), False)]
        modules += [(EXIT[0], True)]
        features, level, dilation = {}, 2, 1
        for number, (channels, halves) in enumerate(modules):
            strided = halves and level < self.output_stride
            x, inner = XceptionModule(
                tuple(map(self._channels, channels)),
                stride=2 if strided else 1,
                dilation=dilation,
                projection=halves,
                dtype=self.dtype,
                name=f"module{number}",
            )(x, train=train)
            if halves:
                features[level] = inner
                level, dilation = 2 * level, dilation if strided else 2 * dilation
        x, _ = XceptionModule(
            tuple(map(self._channels, EXIT[1])),
            dilation=dilation,
            residual=False,
            dtype=self.dtype,
            name=f"module{len(modules)}",
        )(x, train=train)
        return {**features, 32: x}

    def _channels(self, count):
        return max(1, round(count * self.width_multiplier))


class XceptionModule(nn.Module):
    """Three separable convolutions, normalised after their depthwise and pointwise part, and a shortcut.

    A residual module activates before each separable convolution; the last one of the network, without a shortcut,
    after each depthwise and each pointwise convolution (figure 4).

    Attributes:
      channels: of the three convolutions `conv1` to `conv3`.
      stride: of the third one and of the projection.
      dilation: of all three.
      residual: with a shortcut.
      projection: the shortcut is a 1x1 convolution, `shortcut`.
      dtype: compute dtype.
    """

    channels: tuple[int, int, int]
    stride: int = 1
    dilation: int = 1
    residual: bool = True
    projection: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), channels[2]] and [N, H, W, channels[1]] of `dtype`.

        The second is what `conv3` reads, before its ReLU.
        """
        activation = None if self.residual else nn.relu
        y, inner = x, x
        for i, features in enumerate(self.channels):
            inner = y
            y = nn.relu(y) if self.residual else y
            y = SeparableConvBlock(
                features,
                stride=self.stride if i == 2 else 1,
                dilation=self.dilation,
                activation=activation,
                depthwise_activation=activation,
                epsilon=EPSILON,
                dtype=self.dtype,
                name=f"conv{i + 1}",
            )(y, train=train)
        if self.projection:
            x = ConvBlock(
                self.channels[-1],
                (1, 1),
                strides=(self.stride, self.stride),
                activation=None,
                epsilon=EPSILON,
                dtype=self.dtype,
                name="shortcut",
            )(x, train=train)
        return (x + y if self.residual else y), inner


class Xception65Classifier(nn.Module):
    """Xception-65 with its classifier; 39,916,312 parameters with 1000 classes.

    Attributes:
      num_classes: 1000 as published.
      dtype: compute dtype; logits are float32.
    """

    num_classes: int = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Class scores of whole images: floating [N, H, W, C] to float32 [N, num_classes]."""
        x = Xception65(self.dtype, name="backbone")(image, train=train)[32].mean((1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)

"""MobileNetV2: Inverted Residuals and Linear Bottlenecks. Sandler et al., CVPR 2018, arXiv:1801.04381, table 2.

Compared with torchvision's mobilenet_v2; its dilated form with segmentation_models.pytorch's.

Deviations
- The first depthwise convolution is that of the block without expansion, as in torchvision and in the authors' code;
  table 2 gives this block t = 1.
- `output_stride` 16 and 8 replace strides by dilation (section 6.3).
- Weights start as He et al. 2015, fan in; torchvision takes the fan out.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.backbones.mobilenet_v3 import multiple_of_8
from segjax.models.layers.conv import ConvBlock
from segjax.models.layers.inverted_residual import InvertedResidual


class Row(NamedTuple):
    """A row of table 2: expansion factor t, output channels c, repetitions n, stride s of the first."""

    expansion: int
    features: int
    count: int
    stride: int


STEM = 32
"""Channels of the first convolution."""

ROWS = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)
"""Table 2."""

LAST = 1280
"""Channels of the last 1x1 convolution, which a width below 1 does not shrink."""


class MobileNetV2(nn.Module):
    """MobileNetV2 without pooling and classifier. Its parts are `stem`, `block1` to `block17` and `last`.

    Attributes:
      dtype: compute dtype.
      output_stride: of the deepest features: 32, 16 or 8.
      dilate_first: the block whose stride was replaced has the dilation of those after it, as in
        segmentation_models.pytorch; without it that of those before it, as in the authors' code.
      last_conv: with the last 1x1 convolution to 1280 channels, as in torchvision and segmentation_models.pytorch;
        the paper's segmentation networks read the 320 channels before it (section 6.3).
      width_multiplier: factor on all channels, which are then rounded to multiples of 8; 1 as in table 2.
    """

    dtype: Any = jnp.float32
    output_stride: int = 32
    dilate_first: bool = False
    last_conv: bool = True
    width_multiplier: float = 1.0

    def __post_init__(self):
        if self.output_stride not in (32, 16, 8) or self.width_multiplier <= 0:
            raise ValueError(
                "MobileNetV2 needs output_stride in (32, 16, 8) and width_multiplier > 0; received"
                f" output_stride={self.output_stride!r}, width_multiplier={self.width_multiplier!r}"
            )
        super().__post_init__()

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        channels = [self._channels(row.features) for row in (ROWS[0], ROWS[1], ROWS[2], ROWS[4], ROWS[6])]
        if self.last_conv:
            channels[-1] = self._last
        levels = zip((2, 4, 8, 16, 32), channels, strict=True)
        return tuple(FeatureInfo(level, min(level, self.output_stride), count) for level, count in levels)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """The last features of each level; image floating [N, H, W, C], any H and W >= 1.

        Features are of `dtype` and have ceil(H / stride) rows.
        """
        x = ConvBlock(
            self._channels(STEM), strides=(2, 2), padding=1, activation=nn.relu6, dtype=self.dtype, name="stem"
        )(image.astype(self.dtype), train=train)
        features, level, number = {}, 2, 0
        for row in ROWS:
            for i in range(row.count):
                stride = row.stride if i == 0 else 1
                before = max(level // self.output_stride, 1)
                level *= stride
                dilation = max(level // self.output_stride, 1)
                replaced = dilation > before
                number += 1
                x = InvertedResidual(
                    self._channels(row.features),
                    expanded=row.expansion * x.shape[-1],
                    stride=1 if replaced else stride,
                    dilation=before if replaced and not self.dilate_first else dilation,
                    # A block that enters a level has no shortcut, also where dilation replaced its stride.
                    shortcut=stride == 1,
                    dtype=self.dtype,
                    name=f"block{number}",
                )(x, train=train)
                features[level] = x
        if self.last_conv:
            features[32] = ConvBlock(self._last, (1, 1), activation=nn.relu6, dtype=self.dtype, name="last")(
                x, train=train
            )
        return features

    @property
    def _last(self):
        return multiple_of_8(LAST * max(self.width_multiplier, 1.0))

    def _channels(self, count):
        return multiple_of_8(count * self.width_multiplier)


class MobileNetV2Classifier(nn.Module):
    """MobileNetV2 with its classifier; 3,504,872 parameters with 1000 classes.

    Attributes:
      num_classes: 1000 as published.
      dtype: compute dtype; logits are float32.
      width_multiplier: see `MobileNetV2`.
      dropout: rate before the classifier.
    """

    num_classes: int = 1000
    dtype: Any = jnp.float32
    width_multiplier: float = 1.0
    dropout: float = 0.2

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Class scores of whole images: floating [N, H, W, C] to float32 [N, num_classes]."""
        backbone = MobileNetV2(self.dtype, width_multiplier=self.width_multiplier, name="backbone")
        x = backbone(image, train=train)[32].mean((1, 2), dtype=jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)

"""Searching for MobileNetV3. Howard et al., ICCV 2019, arXiv:1905.02244, tables 1 and 2.

Compared with torchvision's mobilenet_v3_large and mobilenet_v3_small, whose batch normalisation has epsilon 1e-3
and momentum 0.99.

Deviations
- As in torchvision the squeeze-and-excitation narrows to a quarter of the expanded channels, rounded to a
  multiple of 8; its gate is the hard sigmoid and its inner activation the ReLU.
- `output_stride` 16 and 8 replace strides by dilation. In torchvision's `dilated=True`, which is 16 here, the
  first convolution of a dilated stage already has the dilation of the stage; 8 goes on alike with 2 and 4.
- Weights start as He et al. 2015, fan in; torchvision takes the fan out.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.layers.conv import ConvBlock
from segjax.models.layers.inverted_residual import InvertedResidual


class Bneck(NamedTuple):
    """A row of table 1 or 2: kernel size, expanded channels, output channels, SE, h-swish, stride."""

    kernel: int
    expanded: int
    features: int
    squeeze: bool
    hard_swish: bool
    stride: int


VARIANTS = {
    # Table 1.
    "large": (
        Bneck(3, 16, 16, False, False, 1),
        Bneck(3, 64, 24, False, False, 2),
        Bneck(3, 72, 24, False, False, 1),
        Bneck(5, 72, 40, True, False, 2),
        Bneck(5, 120, 40, True, False, 1),
        Bneck(5, 120, 40, True, False, 1),
        Bneck(3, 240, 80, False, True, 2),
        Bneck(3, 200, 80, False, True, 1),
        Bneck(3, 184, 80, False, True, 1),
        Bneck(3, 184, 80, False, True, 1),
        Bneck(3, 480, 112, True, True, 1),
        Bneck(3, 672, 112, True, True, 1),
        Bneck(5, 672, 160, True, True, 2),
        Bneck(5, 960, 160, True, True, 1),
        Bneck(5, 960, 160, True, True, 1),
    ),
    # Table 2.
    "small": (
        Bneck(3, 16, 16, True, False, 2),
        Bneck(3, 72, 24, False, False, 2),
        Bneck(3, 88, 24, False, False, 1),
        Bneck(5, 96, 40, True, True, 2),
        Bneck(5, 240, 40, True, True, 1),
        Bneck(5, 240, 40, True, True, 1),
        Bneck(5, 120, 48, True, True, 1),
        Bneck(5, 144, 48, True, True, 1),
        Bneck(5, 288, 96, True, True, 2),
        Bneck(5, 576, 96, True, True, 1),
        Bneck(5, 576, 96, True, True, 1),
    ),
}

STEM = 16
"""Channels of the first convolution."""

LAST = 6
"""Channels of the last 1x1 convolution, in units of those that it reads: 960 and 576."""

HIDDEN = {"large": 1280, "small": 1024}
"""Channels of the classifier's hidden layer."""

NORM = dict(epsilon=1e-3, momentum=0.99)


class MobileNetV3(nn.Module):
    """MobileNetV3 up to its last 1x1 convolution, without pooling and classifier.

    Its parts are `stem`, `bneck1` to `bneck15` (or `bneck11`) and `last`.

    Attributes:
      dtype: compute dtype.
      variant: key of VARIANTS.
      output_stride: of the deepest features: 32, 16 or 8.
      width_multiplier: factor on all channels, which are then rounded to multiples of 8; 1 as in the tables.
    """

    dtype: Any = jnp.float32
    variant: str = "large"
    output_stride: int = 32
    width_multiplier: float = 1.0

    def __post_init__(self):
        for field, allowed in (("variant", tuple(VARIANTS)), ("output_stride", (32, 16, 8))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"MobileNetV3's {field} must be in {allowed}; received {getattr(self, field)!r}")
        if self.width_multiplier <= 0:
            raise ValueError(f"MobileNetV3's width_multiplier must be above 0; received {self.width_multiplier}")
        super().__post_init__()

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        entering = [row.features for row in VARIANTS[self.variant] if row.stride == 2]
        channels = [self._channels(features) for features in (STEM, *entering)][:4]
        last = LAST * self._channels(VARIANTS[self.variant][-1].features)
        levels = zip((2, 4, 8, 16, 32), (*channels, last), strict=True)
        return tuple(FeatureInfo(level, min(level, self.output_stride), count) for level, count in levels)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """The features {2: of the stem, 4, 8, 16: of the block that enters this stride, 32: of the last convolution}.

        These are torchvision's C0 to C3 and C5. image is floating [N, H, W, C], any H and W >= 1; features are of
        `dtype` and have ceil(H / stride) rows.
        """
        x = ConvBlock(
            self._channels(STEM),
            strides=(2, 2),
            padding=1,
            activation=nn.hard_swish,
            dtype=self.dtype,
            name="stem",
            **NORM,
        )(image.astype(self.dtype), train=train)
        features, level = {2: x}, 2
        for i, row in enumerate(VARIANTS[self.variant], start=1):
            level *= row.stride
            dilation = max(level // self.output_stride, 1)
            expanded = self._channels(row.expanded)
            x = InvertedResidual(
                features=self._channels(row.features),
                expanded=expanded,
                kernel=row.kernel,
                stride=row.stride if dilation == 1 else 1,
                dilation=dilation,
                squeezed=multiple_of_8(expanded // 4) if row.squeeze else 0,
                # A block that enters a level has no shortcut, also where dilation replaced its stride.
                shortcut=row.stride == 1,
                activation=nn.hard_swish if row.hard_swish else nn.relu,
                dtype=self.dtype,
                name=f"bneck{i}",
                **NORM,
            )(x, train=train)
            features.setdefault(level, x)
        features[32] = ConvBlock(
            LAST * x.shape[-1], (1, 1), activation=nn.hard_swish, dtype=self.dtype, name="last", **NORM
        )(x, train=train)
        return features

    def _channels(self, count):
        return multiple_of_8(count * self.width_multiplier)


class MobileNetV3Classifier(nn.Module):
    """MobileNetV3 with its classifier; 5,483,032 (large) and 2,542,856 (small) parameters with 1000 classes.

    Attributes:
      num_classes: 1000 as published.
      dtype: compute dtype; logits are float32.
      variant, width_multiplier: see `MobileNetV3`. The hidden layer has the multiplier's share of HIDDEN.
      dropout: rate before the last layer (section 6.1.1: 0.8 kept).
    """

    num_classes: int = 1000
    dtype: Any = jnp.float32
    variant: str = "large"
    width_multiplier: float = 1.0
    dropout: float = 0.2

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Class scores of whole images: floating [N, H, W, C] to float32 [N, num_classes]."""
        backbone = MobileNetV3(self.dtype, self.variant, width_multiplier=self.width_multiplier, name="backbone")
        x = backbone(image, train=train)[32].mean((1, 2), dtype=jnp.float32)
        hidden = multiple_of_8(HIDDEN[self.variant] * self.width_multiplier)
        x = nn.hard_swish(nn.Dense(hidden, dtype=self.dtype, name="hidden")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)


def multiple_of_8(count: float) -> int:
    """The multiple of 8 nearest to `count`, at least 8 and at least nine tenths of it."""
    rounded = max(8, int(count + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * count else rounded + 8

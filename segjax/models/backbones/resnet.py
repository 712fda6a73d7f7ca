"""Deep Residual Learning for Image Recognition. He, Zhang, Ren and Sun, CVPR 2016.

arXiv:1512.03385, table 1. Compared with torchvision's resnet18..152 ("v1.5"), and the DeepLab stem with timm's
resnet50s.

Deviations
- As in torchvision the stride of a bottleneck is that of its 3x3 convolution; in the paper it is that of the first
  1x1 convolution.
- Weights start as He et al. 2015, fan in; torchvision takes the fan out.
- `output_stride` 16 and 8 replace strides by dilation and `multi_grid` multiplies it, as in DeepLab v3 (Chen et al.
  2017, arXiv:1706.05587, sections 3.1 and 3.2); `stem="deeplab"` is the three 3x3 convolutions of the code of PSPNet
  and DeepLab. None is in the paper.
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.layers.conv import ConvBlock
from segjax.models.layers.pool import max_pool

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Residual blocks in each of the four stages, table 1. From depth 50 on they are bottlenecks."""


class ResNet(nn.Module):
    """ResNet without its classifier. Its stages are named `layer1` to `layer4` as in torchvision.

    Attributes:
      dtype: compute dtype.
      depth: key of BLOCKS.
      output_stride: of the deepest features: 32, 16 or 8.
      stem: "7x7" as published, or "deeplab": three 3x3 convolutions of width, width and 2 * width channels.
      multi_grid: dilation of each block of the last stage, in units of that stage's own; () is 1 for all.
      dilate_first: the first block of a dilated stage has the dilation of the others, as in the networks of
        DeepLab, PSPNet and segmentation_models.pytorch. Without it, it has that of the stage before, as in
        torchvision. Where `multi_grid` is given the last stage always dilates its first block too.
      deepest: level at which the network ends: 32, 16, 8 or 4.
      width: channels of the first stage's 3x3 convolutions, 64 as published.
    """

    dtype: Any = jnp.float32
    depth: int = 50
    output_stride: int = 32
    stem: str = "7x7"
    multi_grid: tuple[int, ...] = ()
    dilate_first: bool = False
    deepest: int = 32
    width: int = 64

    def __post_init__(self):
        valid = {
            "depth": tuple(BLOCKS),
            "output_stride": (32, 16, 8),
            "stem": ("7x7", "deeplab"),
            "deepest": (32, 16, 8, 4),
        }
        for field, allowed in valid.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"ResNet's {field} must be in {allowed}; received {getattr(self, field)!r}")
        count = BLOCKS[self.depth][-1]
        if len(self.multi_grid) not in (0, count):
            raise ValueError(
                f"ResNet's multi_grid must have one number for each of the {count} blocks of the last stage, or"
                f" none; received {tuple(self.multi_grid)}"
            )
        super().__post_init__()

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        first = FeatureInfo(2, 2, self.width * (2 if self.stem == "deeplab" else 1))
        expansion = 4 if self.depth >= 50 else 1
        levels = [level for level in (4, 8, 16, 32) if level <= self.deepest]
        return first, *(
            FeatureInfo(level, min(level, self.output_stride), self.width * level // 4 * expansion) for level in levels
        )

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """The features {2: after the stem's ReLU, 4: layer1, 8: layer2, 16: layer3, 32: layer4}.

        image is floating [N, H, W, C], any H and W >= 1; features are of `dtype` and have ceil(H / stride) rows.
        """
        x = image.astype(self.dtype)
        if self.stem == "deeplab":
            for name, units, stride in (("conv1_1", 1, 2), ("conv1_2", 1, 1), ("conv1", 2, 1)):
                x = self._stem_conv(x, units * self.width, 3, stride, name, train)
        else:
            x = self._stem_conv(x, self.width, 7, 2, "conv1", train)
        features = {2: x}
        x = max_pool(x, (3, 3), (2, 2), padding=1)
        block = Bottleneck if self.depth >= 50 else BasicBlock
        for info, count in zip(self.feature_info[1:], BLOCKS[self.depth], strict=False):
            strides_and_dilations = self._strides_and_dilations(info, count)
            for i, (stride, first, second) in enumerate(strides_and_dilations):
                name = f"layer{info.level.bit_length() - 2}_{i}"
                x = block(info.channels, stride, (first, second), self.dtype, name=name)(x, train=train)
            features[info.level] = x
        return features

    def _stem_conv(self, x, features, size, stride, name, train):
        return ConvBlock(
            features, (size, size), strides=(stride, stride), padding=size // 2, dtype=self.dtype, name=name
        )(x, train=train)

    def _strides_and_dilations(self, info: FeatureInfo, count: int) -> Iterator[tuple[int, int, int]]:
        """Of each block of a stage: its stride, the dilation of its first 3x3 convolution and of a second one."""
        dilation = info.level // info.stride
        grid = self.multi_grid if info.level == 32 and self.multi_grid else ()
        for i, unit in enumerate(grid or (1,) * count):
            entering = i == 0 and info.level > 4
            stride = 2 if entering and dilation == 1 else 1
            first = dilation * unit
            if entering and dilation > 1 and not self.dilate_first and not grid:
                first = dilation // 2
            yield stride, first, dilation * unit


def check_dilated(model: nn.Module, *positive: str) -> None:
    """What a network on a dilated ResNet asks of its fields `backbone`, `output_stride`, `dropout` and `width`.

    positive: names of further fields that must be 1 or more.

    Raises:
      ValueError: one of them is wrong.
    """
    name = type(model).__name__
    if not model.backbone.startswith("resnet"):
        raise ValueError(f"{name}'s backbone must be a ResNet among BACKBONES; received {model.backbone!r}")
    if model.output_stride not in (8, 16, 32):
        raise ValueError(f"{name}'s output_stride must be in (8, 16, 32); received {model.output_stride!r}")
    numbers = {field: getattr(model, field) for field in (*positive, "width")}
    if min(numbers.values()) < 1 or not 0 <= model.dropout < 1:
        received = ", ".join(f"{field}={value}" for field, value in {**numbers, "dropout": model.dropout}.items())
        needed = ", ".join(f"{field} >= 1" for field in numbers)
        raise ValueError(f"{name} needs {needed} and 0 <= dropout < 1; received {received}")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut (section 3.3, figure 5 left).

    Attributes:
      features: output channels.
      stride: of the first convolution and of the shortcut.
      dilations: of the two convolutions.
      dtype: compute dtype.
    """

    features: int
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), features] of `dtype`."""
        y = _conv3x3(x, self.features, self.stride, self.dilations[0], "conv1", self.dtype, train)
        y = _conv3x3(y, self.features, 1, self.dilations[1], "conv2", self.dtype, train, activation=None)
        return nn.relu(y + _shortcut(x, self.features, self.stride, self.dtype, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and the shortcut (section 4.1, figure 5 right).

    Attributes:
      features: output channels, four times those of the 3x3 convolution.
      stride: of the 3x3 convolution and of the shortcut.
      dilations: that of the 3x3 convolution; the second number has no meaning here.
      dtype: compute dtype.
    """

    features: int
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), features] of `dtype`."""
        inner = self.features // 4
        y = ConvBlock(inner, (1, 1), dtype=self.dtype, name="conv1")(x, train=train)
        y = _conv3x3(y, inner, self.stride, self.dilations[0], "conv2", self.dtype, train)
        y = ConvBlock(self.features, (1, 1), activation=None, dtype=self.dtype, name="conv3")(y, train=train)
        return nn.relu(y + _shortcut(x, self.features, self.stride, self.dtype, train))


def _conv3x3(x, features, stride, dilation, name, dtype, train, activation=nn.relu):
    return ConvBlock(
        features,
        strides=(stride, stride),
        padding=dilation,
        dilation=(dilation, dilation),
        activation=activation,
        dtype=dtype,
        name=name,
    )(x, train=train)


def _shortcut(x, features, stride, dtype, train):
    """The input itself, or its projection where the shape changes (section 3.3, option B)."""
    if stride == 1 and x.shape[-1] == features:
        return x
    return ConvBlock(features, (1, 1), strides=(stride, stride), activation=None, dtype=dtype, name="downsample")(
        x, train=train
    )


class ResNetClassifier(nn.Module):
    """ResNet with its classifier; 25,557,032 parameters at depth 50 with 1000 classes.

    Attributes:
      num_classes: 1000 as published.
      dtype: compute dtype; logits are float32.
      depth, width: see `ResNet`.
    """

    num_classes: int = 1000
    dtype: Any = jnp.float32
    depth: int = 50
    width: int = 64

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Class scores of whole images: floating [N, H, W, C] to float32 [N, num_classes]."""
        x = ResNet(self.dtype, self.depth, width=self.width, name="backbone")(image, train=train)[32]
        x = x.mean((1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)

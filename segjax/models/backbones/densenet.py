"""Densely Connected Convolutional Networks. Huang, Liu, van der Maaten and Weinberger, CVPR 2017.

arXiv:1608.06993, table 1: DenseNet-BC with growth rate 32 and compression 0.5. Compared with torchvision's
densenet121.

Deviations
- `output_stride` 16 and 8 leave out the last poolings and dilate the 3x3 convolutions behind them; not in the paper.
- Weights start as He et al. 2015, as in torchvision and in the authors' code.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.norm import BatchNorm
from segjax.models.layers.pool import max_pool
from segjax.models.layers.preactivation import NormReluConv

LAYERS = (6, 12, 24, 16)
"""Dense layers in each of the four blocks of DenseNet-121."""

BOTTLENECK = 4
"""Channels of a layer's 1x1 convolution, in units of the growth rate (section 3, "Bottleneck layers")."""


class DenseNet121(nn.Module):
    """DenseNet-121 without its classifier. Its parts are named as in torchvision.

    Attributes:
      dtype: compute dtype.
      output_stride: of the deepest features: 32, 16 or 8.
      growth: channels that each layer adds, 32 as published; the stem has twice as many.
    """

    dtype: Any = jnp.float32
    output_stride: int = 32
    growth: int = 32

    def __post_init__(self):
        if self.output_stride not in (32, 16, 8) or self.growth < 1:
            raise ValueError(
                "DenseNet121 needs output_stride 32, 16 or 8 and growth >= 1;"
                f" received output_stride={self.output_stride}, growth={self.growth}"
            )
        super().__post_init__()

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        channels = 2 * self.growth
        info = [FeatureInfo(2, 2, channels)]
        for level, layers in zip((4, 8, 16, 32), LAYERS, strict=True):
            channels += layers * self.growth
            info.append(FeatureInfo(level, min(level, self.output_stride), channels))
            channels //= 2
        return tuple(info)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """The features {2: of the stem, 4, 8, 16, 32: of the dense blocks}, each after normalisation and ReLU.

        image is floating [N, H, W, C], H and W >= 32 (each pooling of a transition leaves a last odd row or column
        out); features are of `dtype`.
        """
        if min(image.shape[1:3]) < 32:
            raise ValueError(f"DenseNet121 needs images of 32 pixels a side or more; received {image.shape}")
        x = ConvBlock(2 * self.growth, (7, 7), (2, 2), padding=3, dtype=self.dtype, name="conv0")(
            image.astype(self.dtype), train=train
        )
        features = {2: x}
        x = max_pool(x, (3, 3), (2, 2), padding=1)
        for i, (info, layers) in enumerate(zip(self.feature_info[1:], LAYERS, strict=True), start=1):
            dilation = info.level // info.stride
            for j in range(1, layers + 1):
                name = f"denseblock{i}_denselayer{j}"
                new = DenseLayer(self.growth, dilation, self.dtype, name=name)(x, train=train)
                x = jnp.concatenate([x, new], axis=-1)
            norm = "norm5" if info.level == 32 else f"transition{i}_norm"
            x = features[info.level] = nn.relu(BatchNorm(dtype=self.dtype, name=norm)(x, train=train))
            if info.level < 32:
                x = Conv(x.shape[-1] // 2, (1, 1), use_bias=False, dtype=self.dtype, name=f"transition{i}_conv")(x)
                if 2 * info.level <= self.output_stride:
                    x = nn.avg_pool(x, (2, 2), (2, 2))
        return features


class DenseLayer(nn.Module):
    """BN-ReLU-Conv(1x1)-BN-ReLU-Conv(3x3), section 3.

    Attributes:
      growth: output channels.
      dilation: of the 3x3 convolution.
      dtype: compute dtype.
    """

    growth: int
    dilation: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to [N, H, W, growth] of `dtype`."""
        x = NormReluConv(BOTTLENECK * self.growth, (1, 1), dtype=self.dtype, name="conv1")(x, train=train)
        dilation = (self.dilation, self.dilation)
        return NormReluConv(self.growth, dilation=dilation, dtype=self.dtype, name="conv2")(x, train=train)


class DenseNet121Classifier(nn.Module):
    """DenseNet-121 with its classifier; 7,978,856 parameters with 1000 classes.

    Attributes:
      num_classes: 1000 as published.
      dtype: compute dtype; logits are float32.
      growth: see `DenseNet121`.
    """

    num_classes: int = 1000
    dtype: Any = jnp.float32
    growth: int = 32

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Class scores of whole images: floating [N, H, W, C] to float32 [N, num_classes]."""
        backbone = DenseNet121(self.dtype, growth=self.growth, name="backbone")
        x = backbone(image, train=train)[32].mean((1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)

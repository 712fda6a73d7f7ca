"""Very Deep Convolutional Networks for Large-Scale Image Recognition. Simonyan and Zisserman, ICLR 2015.

arXiv:1409.1556, table 1, column D (VGG16). Compared with torchvision's vgg16 and vgg16_bn. Deviations: weights start
as He et al. 2015 (the paper's Gaussian of 0.01 needed a shallower net's weights to train), and `batch_norm` adds a
normalisation after each convolution, which then has no bias; vgg16_bn keeps that bias, without effect on what it
computes. `output_stride` and `pool_window` are those of DeepLab (Chen et al. 2015, arXiv:1412.7062, section 3.1, and
the authors' Caffe nets).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.pool import max_pool

CONVOLUTIONS = (2, 2, 3, 3, 3)
"""3x3 convolutions in each stage, table 1, column D."""

CHANNELS = (1, 2, 4, 8, 8)
"""Channels of each stage, in units of `width`."""


class VGG16(nn.Module):
    """The 13 convolutions of VGG16 and the pooling after each stage.

    Attributes:
      dtype: compute dtype.
      width: channels of the first stage, 64 as published.
      batch_norm: normalise after each convolution; not in the paper.
      output_stride: of the deepest features: 32 as published, 16 or 8. The last poolings then do not step, and the
        convolutions after the first of these are dilated.
      pool_window: 2 as published, or 3: windows of 3x3, padded by 1 on all sides, whose centres lie on every
        second pixel from the first one on.
      stages: how many of the five there are, for a network on the first ones.
      pool_last: False leaves the pooling after the last stage out.
    """

    dtype: Any = jnp.float32
    width: int = 64
    batch_norm: bool = False
    output_stride: int = 32
    pool_window: int = 2
    stages: int = 5
    pool_last: bool = True

    def __post_init__(self):
        if self.output_stride not in (32, 16, 8) or self.pool_window not in (2, 3) or not 2 <= self.stages <= 5:
            raise ValueError(
                "VGG16 needs output_stride in (32, 16, 8), pool_window in (2, 3) and stages in 2..5; received"
                f" output_stride={self.output_stride!r}, pool_window={self.pool_window!r}, stages={self.stages!r}"
            )
        super().__post_init__()

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        levels = list(enumerate(CHANNELS[: self.stages], start=1))
        info = [FeatureInfo(2**i, min(2**i, self.output_stride), self.width * units) for i, units in levels]
        if not self.pool_last:
            info[-1] = info[-1]._replace(stride=info[-2].stride)
        return tuple(info)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """The features after each pooling, {2: pool1, 4: pool2, 8: pool3, 16: pool4, 32: pool5}.

        image is floating [N, H, W, C], H and W >= `output_stride`; features are of `dtype`. Each pooling with a step
        and a window of 2x2 leaves a last odd row or column out; with one of 3x3 features have ceil(H / stride) rows.
        """
        least = self.feature_info[-1].stride
        if self.pool_window == 2 and min(image.shape[1:3]) < least:
            raise ValueError(f"VGG16 needs images of {least} pixels a side or more; received {image.shape}")
        x = image.astype(self.dtype)
        features, dilation = {}, 1
        for stage, (level, stride, channels) in enumerate(self.feature_info, start=1):
            for i in range(1, CONVOLUTIONS[stage - 1] + 1):
                x = ConvBlock(
                    channels,
                    dilation=(dilation, dilation),
                    norm="batch" if self.batch_norm else "none",
                    dtype=self.dtype,
                    name=f"conv{stage}_{i}",
                )(x, train=train)
            dilation = level // stride
            if stage < self.stages or self.pool_last:
                x = self._pool(x, 1 if dilation > 1 else 2)
            features[level] = x
        return features

    def _pool(self, x, step):
        if self.pool_window == 3:
            return max_pool(x, (3, 3), (step, step), padding=1)
        return max_pool(x, (2, 2), (step, step), "VALID" if step == 2 else "SAME")


class VGG16Classifier(nn.Module):
    """VGG16 with its three fully connected layers; 138,357,544 parameters with 1000 classes at 224x224.

    They are convolutions, as in FCN (Long et al. 2015, section 3.1): `fc6` with a window as large as pool5, so that
    its kernel [7, 7, 512, 4096] depends on no order in which pixels and channels are flattened, `fc7` and `fc8` of
    1x1.

    Attributes:
      num_classes: 1000 as published.
      dtype: compute dtype; logits are float32.
      width, batch_norm: see `VGG16`.
      fc_channels: of the two hidden layers, 4096 as published.
      dropout: rate after each of them (section 3.1).
    """

    num_classes: int = 1000
    dtype: Any = jnp.float32
    width: int = 64
    batch_norm: bool = False
    fc_channels: int = 4096
    dropout: float = 0.5

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Class scores of whole images.

        image floating [N, 224, 224, C] (or another size, the same in every call) to float32 [N, num_classes].
        """
        x = VGG16(self.dtype, self.width, self.batch_norm, name="backbone")(image, train=train)[32]
        for name, window in (("fc6", x.shape[1:3]), ("fc7", (1, 1))):
            x = ConvBlock(self.fc_channels, window, padding="VALID", norm="none", dtype=self.dtype, name=name)(
                x, train=train
            )
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Conv(self.num_classes, (1, 1), dtype=self.dtype, name="fc8")(x)[:, 0, 0].astype(jnp.float32)

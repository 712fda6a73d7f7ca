"""Very Deep Convolutional Networks for Large-Scale Image Recognition. Simonyan and Zisserman, ICLR 2015.

arXiv:1409.1556, table 1, column D (VGG16). Deviations: weights start as He et al. 2015 (the paper's Gaussian
of 0.01 needed a shallower net's weights to train), and `batch_norm` adds a normalisation after each
convolution, which then has no bias; PyTorch's vgg16_bn keeps that bias.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.layers.conv import ConvBlock
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
    """

    dtype: Any = jnp.float32
    width: int = 64
    batch_norm: bool = False

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        return tuple(FeatureInfo(2**i, 2**i, self.width * units) for i, units in enumerate(CHANNELS, start=1))

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """The features after each pooling, {2: pool1, 4: pool2, 8: pool3, 16: pool4, 32: pool5}.

        image is floating [N, H, W, C], H and W >= 32; features are of `dtype`. Each pooling leaves a last odd
        row or column out.
        """
        x = image.astype(self.dtype)
        features = {}
        for stage, (level, _, channels) in enumerate(self.feature_info, start=1):
            for i in range(1, CONVOLUTIONS[stage - 1] + 1):
                norm = "batch" if self.batch_norm else "none"
                x = ConvBlock(channels, norm=norm, dtype=self.dtype, name=f"conv{stage}_{i}")(x, train=train)
            x = features[level] = max_pool(x)
        return features


class VGG16Classifier(nn.Module):
    """VGG16 with its three fully connected layers; 138,357,544 parameters with 1000 classes at 224x224.

    The first of them reads pool5 in the order row, column, channel (PyTorch: channel, row, column), so its
    kernel reshaped to [7, 7, 512, 4096] is that of the 7x7 convolution which FCN makes of it.

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
        x = x.reshape(x.shape[0], -1)
        he_normal = nn.initializers.he_normal()
        for name in ("fc6", "fc7"):
            x = nn.relu(nn.Dense(self.fc_channels, kernel_init=he_normal, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc8")(x).astype(jnp.float32)

"""Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs. Chen et al., ICLR 2015.

arXiv:1412.7062: DeepLab, the network before its CRF (sections 3.1 and 3.2, table 2). VGG16 without the steps of its
last two poolings, conv5 dilated by 2, and fc6 a dilated convolution with a smaller kernel. Compared with a PyTorch
version written from the authors' Caffe net of DeepLab-LargeFOV, which pools 3x3 windows padded by 1 and averages 3x3
windows before fc6; the paper mentions neither.

Deviations
- The Caffe net wants sides of 8k + 1 pixels, so that its cells are centred on every eighth pixel, from corner to
  corner. Here the image is padded to that with zeros at the bottom and the right, and the logits are cropped.
- The paper compares scores with labels at stride 8; here the scores are interpolated to the image first.
- Weights of fc6, fc7 and, where none are loaded, of VGG16 start as He et al. 2015.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import build_backbone
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.pad import pad_image
from segjax.models.layers.upsample import resize_bilinear

STRIDE = 8
"""Of the scores."""

VARIANTS = {
    # Chen et al. 2015, table 2: kernel and input stride of fc6; 134.3M, 65.1M, 65.1M and 20.5M parameters.
    "7x7": dict(fc6_kernel=7, fc6_dilation=4, fc_channels=4096),
    "4x4-stride-4": dict(fc6_kernel=4, fc6_dilation=4, fc_channels=4096),
    "4x4-stride-8": dict(fc6_kernel=4, fc6_dilation=8, fc_channels=4096),
    "largefov": dict(fc6_kernel=3, fc6_dilation=12, fc_channels=1024),
}


class DeepLabV1(nn.Module):
    """DeepLab-LargeFOV on VGG16. Needs the "dropout" rng in training.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      fc6_kernel, fc6_dilation: of fc6; the dilation is even where the kernel is.
      fc_channels: of fc6 and fc7.
      average_pool: means over 3x3 windows before fc6; zeros around the border count.
      dropout: rate after fc6 and fc7.
      width: channels of VGG16's first stage, 64 as published.
      batch_norm: normalise in VGG16; not in the paper.
    """

    num_classes: int
    dtype: Any = jnp.float32
    fc6_kernel: int = 3
    fc6_dilation: int = 12
    fc_channels: int = 1024
    average_pool: bool = True
    dropout: float = 0.5
    width: int = 64
    batch_norm: bool = False

    def __post_init__(self):
        if self.fc6_kernel < 1 or self.fc6_dilation < 1 or (self.fc6_kernel - 1) * self.fc6_dilation % 2:
            raise ValueError(
                "DeepLabV1 needs fc6_kernel >= 1, fc6_dilation >= 1 and (fc6_kernel - 1) * fc6_dilation even, so that"
                f" fc6 has a centre; received fc6_kernel={self.fc6_kernel}, fc6_dilation={self.fc6_dilation}"
            )
        if self.width < 1 or self.fc_channels < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "DeepLabV1 needs width >= 1, fc_channels >= 1 and 0 <= dropout < 1;"
                f" received width={self.width}, fc_channels={self.fc_channels}, dropout={self.dropout}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes]."""
        height, width = image.shape[1:3]
        image = pad_image(image, STRIDE, remainder=1)
        x = build_backbone(
            "vgg16_bn" if self.batch_norm else "vgg16",
            dtype=self.dtype,
            width=self.width,
            output_stride=STRIDE,
            pool_window=3,
            name="backbone",
        )(image, train=train)[32]
        if self.average_pool:
            x = nn.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)))
        for name, kernel, dilation in (("fc6", self.fc6_kernel, self.fc6_dilation), ("fc7", 1, 1)):
            x = ConvBlock(
                self.fc_channels,
                (kernel, kernel),
                dilation=(dilation, dilation),
                norm="none",
                dtype=self.dtype,
                name=name,
            )(x, train=train)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        normal = nn.initializers.normal(0.01)  # the Caffe net's
        scores = Conv(self.num_classes, (1, 1), kernel_init=normal, dtype=self.dtype, name="head")(x)
        logits = resize_bilinear(scores.astype(jnp.float32), image.shape[1:3], align_corners=True)
        return logits[:, :height, :width]

"""Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs. Chen et al., ICLR 2015.

arXiv:1412.7062: DeepLab, the network before its CRF (sections 3.1 and 3.2, table 2). VGG16 without the steps of its
last two poolings, conv5 dilated by 2, and fc6 a dilated convolution with a smaller kernel. Compared with a PyTorch
version written from the authors' Caffe net of DeepLab-LargeFOV, which pools 3x3 windows padded by 1 and averages 3x3
windows before fc6; the paper mentions neither. With features of several layers (section 4.3, MSc) it follows the Caffe
net for testing: two layers, with dropout after each, on the image and on each of the first four poolings, whose scores
are interpolated to the image and added to the others, which is a score of the concatenated features.

Deviations
- The Caffe net wants sides of 8k + 1 pixels, so that its cells are centred on every eighth pixel, from corner to
  corner. Here the image is padded to that with zeros at the bottom and the right, and the logits are cropped.
- The paper compares scores with labels at stride 8; here the scores are interpolated to the image first.
- MSc is trained as it is tested; the Caffe net for training computes the branches at every eighth pixel alone.
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
    "msc-largefov": dict(fc6_kernel=3, fc6_dilation=12, fc_channels=1024, msc_channels=128),
}


class DeepLabV1(nn.Module):
    """DeepLab-LargeFOV on VGG16. Needs the "dropout" rng in training.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      fc6_kernel, fc6_dilation: of fc6; the dilation is even where the kernel is.
      fc_channels: of fc6 and fc7.
      average_pool: means over 3x3 windows before fc6; zeros around the border count.
      dropout: rate after fc6 and fc7, and after the layers of MSc.
      width: channels of VGG16's first stage, 64 as published.
      batch_norm: normalise in VGG16; not in the paper.
      msc_channels: of the two layers of each branch of MSc, 128 as published; 0 leaves the branches out.
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
    msc_channels: int = 0

    def __post_init__(self):
        if self.fc6_kernel < 1 or self.fc6_dilation < 1 or (self.fc6_kernel - 1) * self.fc6_dilation % 2:
            raise ValueError(
                "DeepLabV1 needs fc6_kernel >= 1, fc6_dilation >= 1 and (fc6_kernel - 1) * fc6_dilation even, so that"
                f" fc6 has a centre; received fc6_kernel={self.fc6_kernel}, fc6_dilation={self.fc6_dilation}"
            )
        if self.width < 1 or self.fc_channels < 1 or self.msc_channels < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "DeepLabV1 needs width >= 1, fc_channels >= 1, msc_channels >= 0 and 0 <= dropout < 1; received"
                f" width={self.width}, fc_channels={self.fc_channels}, msc_channels={self.msc_channels},"
                f" dropout={self.dropout}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes]."""
        height, width = image.shape[1:3]
        image = pad_image(image, STRIDE, remainder=1)
        features = build_backbone(
            "vgg16_bn" if self.batch_norm else "vgg16",
            dtype=self.dtype,
            width=self.width,
            output_stride=STRIDE,
            pool_window=3,
            name="backbone",
        )(image, train=train)

        def hidden(x, name, channels, kernel=1, dilation=1):
            layer = ConvBlock(
                channels, (kernel, kernel), dilation=(dilation, dilation), norm="none", dtype=self.dtype, name=name
            )
            return nn.Dropout(self.dropout, deterministic=not train)(layer(x, train=train))

        def scores(x, name):
            normal = nn.initializers.normal(0.01)  # the Caffe net's
            x = Conv(self.num_classes, (1, 1), kernel_init=normal, dtype=self.dtype, name=name)(x)
            return resize_bilinear(x.astype(jnp.float32), image.shape[1:3], align_corners=True)

        x = features[32]
        if self.average_pool:
            x = nn.avg_pool(x, (3, 3), padding=((1, 1), (1, 1)))
        x = hidden(x, "fc6", self.fc_channels, self.fc6_kernel, self.fc6_dilation)
        logits = scores(hidden(x, "fc7", self.fc_channels), "head")
        if self.msc_channels:
            sources = {"data": image, **{f"pool{i}": features[2**i] for i in range(1, 5)}}
            for name, x in sources.items():
                x = hidden(x.astype(self.dtype), f"{name}_conv", self.msc_channels, kernel=3)
                logits += scores(hidden(x, f"{name}_fc", self.msc_channels), f"{name}_head")
        return logits[:, :height, :width]

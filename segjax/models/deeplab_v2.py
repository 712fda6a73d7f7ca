"""DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs.

Chen et al., PAMI 2018, arXiv:1606.00915: DeepLab v2 before its CRF, on VGG16 and on ResNet-101. Atrous spatial pyramid
pooling adds the scores of branches of several dilations (section 3.2, figure 7); multi-scale processing runs the same
network on the image at several scales and takes the maximum of the scores (section 3.2; "MSC" in table 4). Compared
with PyTorch versions written from the paper and the authors' Caffe nets.

Deviations
- The Caffe nets want sides of 8k + 1 pixels (32k + 1 for the scales 1, 0.75 and 0.5), so that the cells of all scales
  are centred on pixels, from corner to corner. Here the image is padded to that with zeros at the bottom and the
  right, and the logits are cropped.
- The paper compares scores with labels at the resolution of the scores, each scale's with labels of its size. Here all
  scores are interpolated to the image first.
- ResNet's bottlenecks step in their 3x3 convolution, as in torchvision, where those of the Caffe net do in the first
  1x1. Its normalisation is trained; the authors froze it. With several scales it sees one scale after the other.
- Weights start as He et al. 2015, those of the last layers as in the Caffe nets.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import build_backbone
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.pad import pad_image
from segjax.models.layers.upsample import resize_bilinear
from segjax.models.output import Output

STRIDE = 8
"""Of the scores."""

VARIANTS = {
    # Chen et al. 2018, table 3.
    "vgg16-largefov": dict(backbone="vgg16", rates=(12,)),
    "vgg16-aspp-s": dict(backbone="vgg16", rates=(2, 4, 8, 12)),
    "vgg16-aspp-l": dict(backbone="vgg16", rates=(6, 12, 18, 24)),
    # Table 4; ASPP is ASPP-L. The complete DeepLab v2 is the last one.
    "resnet101-largefov": dict(backbone="resnet101", rates=(12,)),
    "resnet101-aspp": dict(backbone="resnet101", rates=(6, 12, 18, 24)),
    "resnet101-aspp-msc": dict(backbone="resnet101", rates=(6, 12, 18, 24), scales=(1.0, 0.75, 0.5)),
}


class DeepLabV2(nn.Module):
    """DeepLab v2. Needs the "dropout" rng in training on VGG16.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      backbone: "vgg16", "vgg16_bn" (not in the paper) or a ResNet among BACKBONES.
      rates: dilation of each branch.
      scales: of the image; 1 comes first, all are multiples of 0.25.
      fc_channels: of the two hidden layers that a branch has on VGG16 (figure 7b); on ResNet it has none.
      dropout: rate after each of these.
      width: of the backbone, 64 as published.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "resnet101"
    rates: tuple = (6, 12, 18, 24)
    scales: tuple = (1.0,)
    fc_channels: int = 1024
    dropout: float = 0.5
    width: int = 64

    def __post_init__(self):
        if not self.backbone.startswith(("vgg16", "resnet")):
            raise ValueError(f"DeepLabV2's backbone must be vgg16, vgg16_bn or a ResNet; received {self.backbone!r}")
        if not self.rates or min(self.rates) < 1:
            raise ValueError(f"DeepLabV2 needs one or more rates >= 1; received {self.rates!r}")
        if not self.scales or self.scales[0] != 1 or any(scale <= 0 or scale * 4 % 1 for scale in self.scales):
            raise ValueError(
                f"DeepLabV2's scales must be positive multiples of 0.25 and begin with 1; received {self.scales!r}"
            )
        if self.width < 1 or self.fc_channels < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "DeepLabV2 needs width >= 1, fc_channels >= 1 and 0 <= dropout < 1;"
                f" received width={self.width}, fc_channels={self.fc_channels}, dropout={self.dropout}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array | Output:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        In training with several scales, `Output`: the fused logits, and as auxiliary ones those of each scale.
        """
        height, width = image.shape[1:3]
        # A quarter of the sides minus 1 is a whole number of cells at every scale.
        image = pad_image(image, STRIDE * (4 if len(self.scales) > 1 else 1), remainder=1)
        score = self._network()

        def logits_of(scores):
            return resize_bilinear(scores, image.shape[1:3], align_corners=True)[:, :height, :width]

        scores = [score(image, train)]
        for scale in () if self.is_initializing() else self.scales[1:]:
            size = tuple(round((side - 1) * scale) + 1 for side in image.shape[1:3])
            scores.append(score(resize_bilinear(image, size, align_corners=True), train))
        fused = scores[0]
        for other in scores[1:]:
            fused = jnp.maximum(fused, resize_bilinear(other, fused.shape[1:3], align_corners=True))
        if train and len(self.scales) > 1:
            return Output(logits_of(fused), tuple(map(logits_of, scores)))
        return logits_of(fused)

    def _network(self):
        """The network of one scale: (image, train) to float32 scores at stride 8; each call uses the same weights."""
        on_vgg = self.backbone.startswith("vgg16")
        fields = dict(pool_window=3) if on_vgg else dict(dilate_first=True)
        backbone = build_backbone(
            self.backbone, dtype=self.dtype, width=self.width, output_stride=STRIDE, name="backbone", **fields
        )
        branches = [self._branch(i, rate, on_vgg) for i, rate in enumerate(self.rates, start=1)]

        def score(image, train):
            x = backbone(image, train=train)[32]
            return sum(branch(x, train).astype(jnp.float32) for branch in branches)

        return score

    def _branch(self, number, rate, on_vgg):
        normal = nn.initializers.normal(0.01)  # the Caffe nets'
        head = dict(features=self.num_classes, kernel_init=normal, dtype=self.dtype, name=f"head_{number}")
        if not on_vgg:
            head = Conv(**head, kernel_size=(3, 3), kernel_dilation=(rate, rate))
            return lambda x, train: head(x)
        hidden = dict(features=self.fc_channels, norm="none", dtype=self.dtype)
        fc6 = ConvBlock(**hidden, kernel_size=(3, 3), dilation=(rate, rate), name=f"fc6_{number}")
        fc7 = ConvBlock(**hidden, kernel_size=(1, 1), name=f"fc7_{number}")
        head = Conv(**head, kernel_size=(1, 1))
        dropout = nn.Dropout(self.dropout)

        def branch(x, train):
            for layer in (fc6, fc7):
                x = dropout(layer(x, train=train), deterministic=not train)
            return head(x)

        return branch

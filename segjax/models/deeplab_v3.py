"""Rethinking Atrous Convolution for Semantic Image Segmentation. Chen et al. 2017, arXiv:1706.05587: DeepLab v3.

Dilated ResNet with multi-grid (sections 3.1 and 3.2), atrous spatial pyramid pooling with image-level features
(section 3.3, figure 5). Compared with torchvision's deeplabv3_resnet50, deeplabv3_resnet101 and
deeplabv3_mobilenet_v3_large, whose published weights have 42,004,074, 60,996,202 and 11,029,328 parameters with 21
classes and the auxiliary head.

Deviations. The defaults are torchvision's form, which is not the paper's: a 3x3 convolution after the pyramid, no
multi-grid, the rates of output stride 8 at 16 too, dropout, and an auxiliary head (Zhao et al. 2017,
arXiv:1612.01105), whose loss torchvision weighs by 0.5 (config.loss.auxiliary). In the paper's form as here ResNet's
bottlenecks step in their first block and there in the 3x3 convolution (the authors': in the last block of the stage
before), pixel centres are at half-integers when logits are interpolated (the authors': corners coincide), and the
running statistics have momentum 0.9 (the paper: 0.9997). Weights start as He et al. 2015.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import WITH_OUTPUT_STRIDE, build_backbone
from segjax.models.layers.aspp import ASPP
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.head import FCNHead
from segjax.models.layers.upsample import resize_bilinear
from segjax.models.output import Output

PAPER = dict(refine=False, auxiliary=False, dropout=0.0, multi_grid=(1, 2, 4), dilate_first=True)

VARIANTS = {
    # Chen et al. 2017, tables 5 and 6: multi-grid (1, 2, 4), ASPP (6, 12, 18), image pooling; output stride 16 in
    # training, 8 with doubled rates in evaluation.
    "resnet50-os16": dict(backbone="resnet50", output_stride=16, rates=(6, 12, 18), **PAPER),
    "resnet101-os16": dict(backbone="resnet101", output_stride=16, rates=(6, 12, 18), **PAPER),
    "resnet101-os8": dict(backbone="resnet101", output_stride=8, rates=(12, 24, 36), **PAPER),
    # torchvision.models.segmentation: 66.4, 67.4 and 60.3 mIoU on COCO val2017 with the labels of VOC.
    "torchvision-resnet50": dict(backbone="resnet50"),
    "torchvision-resnet101": dict(backbone="resnet101"),
    "torchvision-mobilenet-v3-large": dict(backbone="mobilenet_v3_large", output_stride=16, auxiliary_level=8),
}


class DeepLabV3(nn.Module):
    """DeepLab v3. Needs the "dropout" rng in training where a dropout rate is not 0.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      backbone: one of WITH_OUTPUT_STRIDE.
      output_stride: of the features that the pyramid reads: 32, 16 or 8.
      rates: dilations of the pyramid; (6, 12, 18) at output stride 16 and (12, 24, 36) at 8 as published.
      multi_grid: dilations of the last stage's blocks in a ResNet, in units of that stage's own; () is 1 for all.
      dilate_first: see `ResNet` and `MobileNetV2`.
      features: channels of the pyramid, 256 as published.
      refine: with torchvision's 3x3 convolution after the pyramid.
      dropout: rate after the pyramid.
      auxiliary, auxiliary_level: in training, score the features of this level, 8 or 16, too.
      auxiliary_dropout: rate in the auxiliary head.
      width: of the backbone, in 64ths of the published one.
      image_pooling: with the pyramid's image-level features; False is a row of the paper's table 5.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "resnet50"
    output_stride: int = 8
    rates: tuple = (12, 24, 36)
    multi_grid: tuple = ()
    dilate_first: bool = False
    features: int = 256
    refine: bool = True
    dropout: float = 0.5
    auxiliary: bool = True
    auxiliary_level: int = 16
    auxiliary_dropout: float = 0.1
    width: int = 64
    image_pooling: bool = True

    def __post_init__(self):
        if self.output_stride not in (8, 16, 32) or self.auxiliary_level not in (8, 16):
            raise ValueError(
                "DeepLabV3 needs output_stride in (8, 16, 32) and auxiliary_level in (8, 16); received"
                f" output_stride={self.output_stride!r}, auxiliary_level={self.auxiliary_level!r}"
            )
        if not self.rates or min(self.rates) < 1:
            raise ValueError(f"DeepLabV3 needs one or more rates >= 1; received {self.rates!r}")
        rates = (self.dropout, self.auxiliary_dropout)
        if self.width < 1 or self.features < 1 or not all(0 <= rate < 1 for rate in rates):
            raise ValueError(
                "DeepLabV3 needs width >= 1, features >= 1 and 0 <= dropout, auxiliary_dropout < 1; received"
                f" width={self.width}, features={self.features}, dropout={self.dropout},"
                f" auxiliary_dropout={self.auxiliary_dropout}"
            )
        backbone_fields(self.backbone, self.width, self.multi_grid, self.dilate_first)
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array | Output:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        In training with `auxiliary`, `Output` with one set of auxiliary logits of that shape.
        """
        fields = backbone_fields(self.backbone, self.width, self.multi_grid, self.dilate_first)
        features = build_backbone(
            self.backbone, dtype=self.dtype, output_stride=self.output_stride, name="backbone", **fields
        )(image, train=train)
        x = ASPP(
            tuple(self.rates),
            self.features,
            dropout=self.dropout,
            dtype=self.dtype,
            pooling=self.image_pooling,
            name="aspp",
        )(features[32], train=train)
        if self.refine:
            x = ConvBlock(self.features, dtype=self.dtype, name="refine")(x, train=train)
        scores = Conv(self.num_classes, (1, 1), dtype=self.dtype, name="head")(x)
        logits = resize_bilinear(scores.astype(jnp.float32), image.shape[1:3])
        if self.auxiliary and (train or self.is_initializing()):
            head = FCNHead(self.num_classes, dropout=self.auxiliary_dropout, dtype=self.dtype, name="auxiliary_head")
            auxiliary = resize_bilinear(head(features[self.auxiliary_level], train=train), image.shape[1:3])
            return Output(logits, (auxiliary,)) if train else logits
        return logits


def backbone_fields(backbone: str, width: int, multi_grid: tuple, dilate_first: bool) -> dict[str, Any]:
    """The fields of a backbone, of `width` 64ths of its published width.

    Raises:
      ValueError: it cannot do what is asked for.
    """
    if backbone not in WITH_OUTPUT_STRIDE:
        raise ValueError(f"the backbone must be one of {', '.join(WITH_OUTPUT_STRIDE)}; received {backbone!r}")
    resnet = backbone.startswith("resnet")
    if multi_grid and not resnet:
        raise ValueError(f"multi_grid needs a ResNet as backbone; received {backbone!r} and {tuple(multi_grid)}")
    if dilate_first and not resnet and not backbone.startswith("mobilenet_v2"):
        raise ValueError(f"dilate_first needs a ResNet or mobilenet_v2 as backbone; received {backbone!r}")
    fields = dict(multi_grid=tuple(multi_grid)) if multi_grid else {}
    if dilate_first:
        fields["dilate_first"] = True
    if backbone.startswith(("resnet", "vgg")):
        return {**fields, "width": width}
    if backbone.startswith("densenet"):
        return {**fields, "growth": width // 2}
    return {**fields, "width_multiplier": width / 64}

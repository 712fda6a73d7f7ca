"""Fully convolutional network on a dilated ResNet, as torchvision has it (fcn_resnet50, fcn_resnet101).

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, arXiv:1411.4038,
describes the idea on other backbones; the last strides become dilations as in Chen et al. 2017, arXiv:1706.05587, and
the auxiliary head is that of Zhao et al. 2017, arXiv:1612.01105. Compared with torchvision's networks, whose
published weights have 35,322,218 parameters (50) and 54,314,346 (101), with 21 classes and the auxiliary head.

Deviations: weights start as He et al. 2015, fan in, in the backbone and the heads' 3x3 convolutions. torchvision
trains with a weight of 0.5 on the auxiliary loss: config.loss.auxiliary.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import build_backbone
from segjax.models.backbones.resnet import check_dilated
from segjax.models.layers.head import FCNHead
from segjax.models.layers.upsample import resize_bilinear
from segjax.models.output import Output

VARIANTS = {
    # torchvision.models.segmentation: 60.5 and 63.7 mIoU on COCO val2017 with the labels of VOC.
    "resnet50": dict(backbone="resnet50"),
    "resnet101": dict(backbone="resnet101"),
}


class FCNResNet(nn.Module):
    """FCN on a ResNet. Needs the "dropout" rng in training.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      backbone: a ResNet among BACKBONES.
      output_stride: of the features that are scored: 8 as in torchvision, 16 or 32.
      auxiliary: in training, score the features of level 16 too.
      dropout: rate in each head.
      width: of the backbone, 64 as published.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "resnet50"
    output_stride: int = 8
    auxiliary: bool = True
    dropout: float = 0.1
    width: int = 64

    def __post_init__(self):
        check_dilated(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array | Output:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        In training with `auxiliary`, `Output` with one set of auxiliary logits of that shape.
        """
        features = build_backbone(
            self.backbone, dtype=self.dtype, output_stride=self.output_stride, width=self.width, name="backbone"
        )(image, train=train)

        def score(level, name):
            head = FCNHead(self.num_classes, dropout=self.dropout, dtype=self.dtype, name=name)
            return resize_bilinear(head(features[level], train=train), image.shape[1:3])

        logits = score(32, "head")
        if self.auxiliary and (train or self.is_initializing()):
            auxiliary = score(16, "auxiliary_head")
            return Output(logits, (auxiliary,)) if train else logits
        return logits

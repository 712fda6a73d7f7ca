"""Non-local network on a dilated ResNet: global attention between its features.

Wang, Girshick, Gupta and He, "Non-local Neural Networks", CVPR 2018, arXiv:1711.07971, is about video and detection and
puts its blocks among the residual ones; `layers.nonlocal_block` has the equations. The form for segmentation, one block
in the head, is that of mmsegmentation (NLHead, config nonlocal_r50-d8), with which a network in PyTorch was compared
that was written from that config: the features of stride 8 pass a 3x3 convolution, the block and a 3x3 convolution,
meet the features again, and pass a last 3x3 convolution.

Deviations: the ResNet has the 7x7 stem of the paper, for which there are weights, where mmsegmentation's has three 3x3
convolutions (stem="deeplab" has those of PSPNet, wider by two). Weights start as He et al. 2015, fan in, but for those
of the block. The auxiliary loss has the weight config.loss.auxiliary, 0.4 in mmsegmentation.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import build_backbone
from segjax.models.backbones.resnet import check_dilated
from segjax.models.layers.conv import ConvBlock
from segjax.models.layers.head import FCNHead
from segjax.models.layers.nonlocal_block import FORMS, NonLocalBlock
from segjax.models.layers.upsample import resize_bilinear
from segjax.models.output import Output

VARIANTS = {
    # mmsegmentation's configs/nonlocal_net: 42.03 and 44.63 mIoU on ADE20K (160k steps), single-scale.
    "resnet50": dict(backbone="resnet50"),
    "resnet101": dict(backbone="resnet101"),
}


class NonLocalNet(nn.Module):
    """Non-local network on a ResNet. Needs the "dropout" rng in training.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      backbone: a ResNet among BACKBONES.
      stem: of the ResNet: "7x7" or "deeplab".
      output_stride: of the features: 8 as in mmsegmentation, 16 or 32.
      channels: of the head's convolutions and of the block's input.
      reduction, form, attention: of the block, see `NonLocalBlock`. attention=False is a network in whose head no
        position sees another one through the block, with the same parameters.
      auxiliary: in training, score the features of level 16 too.
      dropout: rate of whole feature maps in each head.
      width: of the backbone, 64 as published.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "resnet50"
    stem: str = "7x7"
    output_stride: int = 8
    channels: int = 512
    reduction: int = 2
    form: str = "embedded_gaussian"
    attention: bool = True
    auxiliary: bool = True
    dropout: float = 0.1
    width: int = 64

    def __post_init__(self):
        check_dilated(self, "reduction", "channels")
        choices = {"stem": ("7x7", "deeplab"), "form": FORMS}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"NonLocalNet's {field} must be in {allowed}; received {getattr(self, field)!r}")
        if self.reduction > self.channels:
            raise ValueError(
                "NonLocalNet needs 1 <= reduction <= channels;"
                f" received reduction={self.reduction}, channels={self.channels}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array | Output:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        In training with `auxiliary`, `Output` with one set of auxiliary logits of that shape.
        """
        features = build_backbone(
            self.backbone,
            dtype=self.dtype,
            output_stride=self.output_stride,
            stem=self.stem,
            width=self.width,
            name="backbone",
        )(image, train=train)

        def score(x, channels, name):
            head = FCNHead(
                self.num_classes, channels, dropout=self.dropout, whole_maps=True, dtype=self.dtype, name=name
            )
            return resize_bilinear(head(x, train=train), image.shape[1:3])

        x = ConvBlock(self.channels, dtype=self.dtype, name="conv_in")(features[32], train=train)
        x = NonLocalBlock(self.reduction, self.form, self.attention, self.dtype, name="nonlocal")(x, train=train)
        x = ConvBlock(self.channels, dtype=self.dtype, name="conv_out")(x, train=train)
        logits = score(jnp.concatenate([features[32], x], axis=-1), self.channels, "head")
        if self.auxiliary and (train or self.is_initializing()):
            auxiliary = score(features[16], None, "auxiliary_head")
            return Output(logits, (auxiliary,)) if train else logits
        return logits

"""Dual Attention Network. Fu, Liu, Tian, Li, Bao, Fang and Lu, CVPR 2019, arXiv:1809.02983.

Figure 2: on the features of a dilated ResNet one branch lets pixels attend to pixels (section 3.2, figure 3A), another
channels to channels (section 3.3, figure 3B); their sum is classified, and in training so is each by itself. Compared
with a network in PyTorch written from the paper and the layers of the authors' code (github.com/junfu1115/DANet).

As in the authors' code, and not in the paper:
- Channel attention takes the softmax of a row's largest energy minus each energy, which is the softmax of the negative
  energies: a channel attends to those that are least like it. Equation 3 has the softmax of the energies.
- The logits are resized with the corners of the image on those of the features.

Deviations: weights start as He et al. 2015, fan in, in the backbone and the 3x3 convolutions. The losses of the two
branches weigh as much as that of the sum in the authors' code: config.loss.auxiliary = 1.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import build_backbone
from segjax.models.backbones.resnet import check_dilated
from segjax.models.layers.attention import attention
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.pixel_attention import SelfAttention, add_scaled, as_sequence, attend, attention_map
from segjax.models.layers.upsample import resize_bilinear
from segjax.models.output import Output

VARIANTS = {
    # Fu et al. 2019, the ablations: depths of the ResNet; with the dilations 4, 8 and 16 in its last stage.
    "resnet50": dict(backbone="resnet50"),
    "resnet101": dict(backbone="resnet101"),
    "resnet101_multi_grid": dict(backbone="resnet101", multi_grid=(1, 2, 4)),
}


class DANet(nn.Module):
    """DANet on a ResNet. Needs the "dropout" rng in training.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      backbone: a ResNet among BACKBONES.
      output_stride: of the features: 8 as published, 16 or 32.
      multi_grid: dilation of each block of the backbone's last stage, in units of that stage's own; () is 1 for all.
      channels: of each branch; 512 as published, a quarter of ResNet-50's and 101's.
      attention: False takes the attention out of both branches at equal parameters: every pixel is given its own value
        alone, and every channel itself.
      auxiliary: in training, score each branch by itself too.
      dropout: rate of whole feature maps before each classifier.
      width: of the backbone, 64 as published.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "resnet101"
    output_stride: int = 8
    multi_grid: tuple = ()
    channels: int = 512
    attention: bool = True
    auxiliary: bool = True
    dropout: float = 0.1
    width: int = 64

    def __post_init__(self):
        check_dilated(self, "channels")
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array | Output:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        In training with `auxiliary`, `Output` with two sets of auxiliary logits of that shape: those of the position
        branch and of the channel branch.
        """
        features = build_backbone(
            self.backbone,
            dtype=self.dtype,
            output_stride=self.output_stride,
            multi_grid=self.multi_grid,
            width=self.width,
            name="backbone",
        )(image, train=train)[32]

        def branch(block):
            """3x3 convolution, attention, 3x3 convolution."""
            x = ConvBlock(self.channels, dtype=self.dtype, name=f"{block.name}_in")(features, train=train)
            return ConvBlock(self.channels, dtype=self.dtype, name=f"{block.name}_out")(block(x), train=train)

        def score(x, name):
            x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
            logits = Conv(self.num_classes, (1, 1), dtype=self.dtype, name=name)(x).astype(jnp.float32)
            return resize_bilinear(logits, image.shape[1:3], align_corners=True)

        position = branch(
            SelfAttention(
                functools.partial(attend, scale=1.0),
                functools.partial(attention_map, scale=1.0),
                self.attention,
                self.dtype,
                name="position",
            )
        )
        channel = branch(ChannelAttention(self.attention, self.dtype, name="channel"))
        logits = score(position + channel, "head")
        if self.auxiliary and (train or self.is_initializing()):
            auxiliary = score(position, "position_head"), score(channel, "channel_head")
            return Output(logits, auxiliary) if train else logits
        return logits


class ChannelAttention(nn.Module):
    """x + scale * (each channel's mean of all channels, weighted by how little they are alike), section 3.3.

    The matrix of weights is C x C, so time and memory are linear in the pixels. It belongs to no pixel, so that it is
    not among the maps of `keep_map`.

    Attributes:
      attention: False gives every channel itself.
      dtype: compute dtype.
    """

    attention: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same shape, of `dtype`."""
        x = x.astype(self.dtype)
        found = x
        if self.attention:
            maps = as_sequence(x).swapaxes(1, 3)
            found = attention(-maps, maps, maps, scale=1.0).swapaxes(1, 3).reshape(x.shape)
        return add_scaled(self, x, found)

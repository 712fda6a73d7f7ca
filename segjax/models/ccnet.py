"""CCNet. Huang, Wang, Wei, Huang, Shi, Liu and Huang, "CCNet: Criss-Cross Attention for Semantic Segmentation".

ICCV 2019 and PAMI 2020, arXiv:1811.11721. Figure 2: on the reduced features of a dilated ResNet each pixel attends to
its row and its column (section 3.2, figure 3, equations 1 and 2), twice with the same weights, after which it knows of
all pixels (section 3.3, figure 4); the result beside the features is classified. Compared with a network in PyTorch
written from the paper and the layers of the authors' code (github.com/speedinghzl/CCNet).

As in the authors' code, and not in the paper: a learned scale of what is found, which starts at 0, and logits that are
resized with the corners of the image on those of the features.

Deviations: ReLU where the authors' normalisation, all but in the backbone, is followed by a leaky ReLU of slope 0.01;
the pool of the stem rounds the size down where theirs rounds up, which differs for some even sizes, not for theirs of
8k + 1. The auxiliary head's first convolution has no bias. Weights start as He et al. 2015, fan in, in the backbone and
the 3x3 convolutions. There is no category consistent loss (PAMI 2020). The auxiliary loss has the weight
config.loss.auxiliary, 0.4 in the authors' code.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import build_backbone
from segjax.models.backbones.resnet import check_dilated
from segjax.models.layers.conv import ConvBlock
from segjax.models.layers.head import FCNHead
from segjax.models.layers.pixel_attention import SelfAttention
from segjax.models.layers.upsample import resize_bilinear
from segjax.models.output import Output

VARIANTS = {
    # Huang et al. 2019, section 4: ResNet-101 with criss-cross attention once or twice.
    "resnet101": dict(backbone="resnet101"),
    "resnet101_once": dict(backbone="resnet101", recurrence=1),
}


class CCNet(nn.Module):
    """CCNet on a ResNet. Needs the "dropout" rng in training.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      backbone: a ResNet among BACKBONES.
      stem: of the ResNet: "deeplab" in the authors' code, or "7x7".
      output_stride: of the features: 8 as published, 16 or 32.
      recurrence: times that criss-cross attention is applied, R of section 3.3; 2 as published.
      channels: of the attention and of each head; 512 as published, a quarter of ResNet-101's.
      attention: False takes the attention out at equal parameters: every pixel is given its own value alone.
      auxiliary: in training, score the features of level 16 too.
      dropout: rate of whole feature maps in each head.
      width: of the backbone, 64 as published.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "resnet101"
    stem: str = "deeplab"
    output_stride: int = 8
    recurrence: int = 2
    channels: int = 512
    attention: bool = True
    auxiliary: bool = True
    dropout: float = 0.1
    width: int = 64

    def __post_init__(self):
        check_dilated(self, "recurrence", "channels")
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array | Output:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        In training with `auxiliary`, `Output` with one set of auxiliary logits of that shape. The map of attention is
        that of the last recurrence.
        """
        features = build_backbone(
            self.backbone,
            dtype=self.dtype,
            output_stride=self.output_stride,
            stem=self.stem,
            dilate_first=True,
            width=self.width,
            name="backbone",
        )(image, train=train)

        def score(x, name):
            head = FCNHead(
                self.num_classes, self.channels, dropout=self.dropout, whole_maps=True, dtype=self.dtype, name=name
            )
            return resize_bilinear(head(x, train=train), image.shape[1:3], align_corners=True)

        x = ConvBlock(self.channels, dtype=self.dtype, name="attention_in")(features[32], train=train)
        attend = SelfAttention(criss_cross, criss_cross_map, self.attention, self.dtype, name="criss_cross")
        for _ in range(self.recurrence):
            x = attend(x)
        x = ConvBlock(self.channels, dtype=self.dtype, name="attention_out")(x, train=train)
        logits = score(jnp.concatenate([features[32], x], axis=-1), "head")
        if self.auxiliary and (train or self.is_initializing()):
            auxiliary = score(features[16], "auxiliary_head")
            return Output(logits, (auxiliary,)) if train else logits
        return logits


def criss_cross(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Section 3.2, the sum of equation 2: of each pixel, the weighted mean of the values in its row and its column.

    query and key [N, H, W, D] and value [N, H, W, C] to [N, H, W, C] of value's dtype. Memory is that of H W (H + W)
    weights; scores and softmax are float32.
    """
    rows, columns = (found.astype(value.dtype) for found in criss_cross_weights(query, key))
    return jnp.einsum("nhwv,nhvc->nhwc", rows, value) + jnp.einsum("nhwg,ngwc->nhwc", columns, value)


def criss_cross_weights(query: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Equation 1 and the softmax over a pixel's row and column, itself counted once: in its row.

    query and key [N, H, W, D] to float32 [N, H, W, W] (of its row) and [N, H, W, H] (of its column), which together add
    up to 1.
    """
    rows = jnp.einsum("nhwd,nhvd->nhwv", query, key, preferred_element_type=jnp.float32)
    columns = jnp.einsum("nhwd,ngwd->nhwg", query, key, preferred_element_type=jnp.float32)
    itself = jnp.eye(query.shape[1], dtype=bool)[:, None]
    columns = jnp.where(itself, -jnp.inf, columns)
    found = jax.nn.softmax(jnp.concatenate([rows, columns], axis=-1))
    return found[..., : query.shape[2]], found[..., query.shape[2] :]


def criss_cross_map(query: jax.Array, key: jax.Array) -> jax.Array:
    """`criss_cross_weights` on the whole grid, 0 off the cross: float32 [N, 1, H, W, H, W], quadratic in memory."""
    rows, columns = criss_cross_weights(query, key)
    rows = rows[:, :, :, None, :] * jnp.eye(query.shape[1])[:, None, :, None]
    columns = columns[..., None] * jnp.eye(query.shape[2])[:, None, :]
    return (rows + columns)[:, None]

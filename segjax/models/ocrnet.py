"""OCRNet. Yuan, Chen and Wang, "Object-Contextual Representations for Semantic Segmentation".

ECCV 2020, arXiv:1909.11065. Section 3.2 and figure 3: an auxiliary head says softly which pixels each class has; the
mean of their features represents that region; each pixel is augmented by a mean of the regions' representations,
weighted by its attention to them. Compared with a network in PyTorch written from the paper and the layers of the
authors' code (github.com/openseg-group/openseg.pytorch), on a ResNet; HRNet is not here.

As in the authors' code, and not in the paper: φ and ψ are two 1x1 convolutions each, the scores of attention are
divided by the root of their number of channels, and the logits are resized with the corners of the image on those of
the features.

Deviations: a convolution before a normalisation has no bias. Weights start as He et al. 2015, fan in, but those of the
last convolution of each head. The loss of the regions has the weight config.loss.auxiliary, 0.4 in the paper.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import build_backbone
from segjax.models.backbones.resnet import check_dilated
from segjax.models.layers.attention import keep_map
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.head import FCNHead
from segjax.models.layers.pixel_attention import attend, attention_map
from segjax.models.layers.upsample import resize_bilinear
from segjax.models.output import Output

VARIANTS = {
    # Yuan et al. 2020, section 4: the ResNet of the comparison with other relational contexts.
    "resnet101": dict(backbone="resnet101"),
}


class OCRNet(nn.Module):
    """OCRNet on a ResNet. Needs the "dropout" rng in training.

    Attributes:
      num_classes: channels of the logits, and number of regions.
      dtype: compute dtype; parameters and logits are float32.
      backbone: a ResNet among BACKBONES.
      stem: of the ResNet: "deeplab" in the authors' code, or "7x7".
      output_stride: of the features: 8 as published, 16 or 32.
      channels: of the pixels' representations, before and after they are augmented.
      key_channels: of query, key and value: of φ, ψ and δ.
      attention: False takes the attention out at equal parameters: every pixel is augmented by its own value, δ of its
        own representation, in place of the mean of the regions'. φ and ψ stay among the parameters and have no
        effect, and the regions have their loss alone.
      dropout: rate of whole feature maps in each head.
      width: of the backbone, 64 as published.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "resnet101"
    stem: str = "deeplab"
    output_stride: int = 8
    channels: int = 512
    key_channels: int = 256
    attention: bool = True
    dropout: float = 0.05
    width: int = 64

    def __post_init__(self):
        check_dilated(self, "channels", "key_channels")
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array | Output:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        In training, `Output` with the logits of the regions as one set of auxiliary logits of that shape.

        The maps of attention are "region_map", [N, 1, 1, num_classes, H', W'], of each region the weights of the
        pixels, and with `attention` "pixel_map", [N, 1, H', W', 1, num_classes], of each pixel those of the regions.
        """
        features = build_backbone(
            self.backbone,
            dtype=self.dtype,
            output_stride=self.output_stride,
            stem=self.stem,
            width=self.width,
            name="backbone",
        )(image, train=train)
        region_logits = FCNHead(
            self.num_classes, self.channels, dropout=self.dropout, whole_maps=True, dtype=self.dtype, name="region_head"
        )(features[16], train=train)
        pixels = ConvBlock(self.channels, dtype=self.dtype, name="pixels")(features[32], train=train)
        context = self._context(pixels, self._regions(pixels, region_logits), train)
        x = jnp.concatenate([context, pixels], axis=-1)
        x = ConvBlock(self.channels, (1, 1), dtype=self.dtype, name="augmented")(x, train=train)
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
        scores = Conv(self.num_classes, (1, 1), dtype=self.dtype, name="head")(x).astype(jnp.float32)

        def resized(logits):
            return resize_bilinear(logits, image.shape[1:3], align_corners=True)

        return Output(resized(scores), (resized(region_logits),)) if train else resized(scores)

    def _regions(self, pixels, logits):
        """Of each class, the mean of the pixels weighted by a softmax over space of its logits: [N, 1, K, channels]."""
        of_region = jax.nn.softmax(logits, axis=(1, 2))
        keep_map(self, "region_map", lambda: jnp.moveaxis(of_region, -1, 1)[:, None, None])
        return jnp.einsum("nhwk,nhwc->nkc", of_region.astype(pixels.dtype), pixels)[:, None]

    def _context(self, pixels, regions, train):
        """The object-contextual representation: ρ of a mean of δ(regions), weighted by softmax(φ(pixel) ψ(region))."""

        def transform(x, features, name):
            return ConvBlock(features, (1, 1), dtype=self.dtype, name=name)(x, train=train)

        query = transform(transform(pixels, self.key_channels, "query1"), self.key_channels, "query2")
        key = transform(transform(regions, self.key_channels, "key1"), self.key_channels, "key2")
        value = transform(regions if self.attention else pixels, self.key_channels, "value")
        if self.attention:
            scale = self.key_channels**-0.5
            keep_map(self, "pixel_map", lambda: attention_map(query, key, scale=scale))
            value = attend(query, key, value, scale=scale)
        return transform(value, self.channels, "context")

"""Pyramid Scene Parsing Network. Zhao, Shi, Qi, Wang and Jia, CVPR 2017, arXiv:1612.01105.

Figure 3: the features of a dilated ResNet are averaged over 1x1, 2x2, 3x3 and 6x6 cells, and what was found there is
brought back to every pixel. Compared with a network in PyTorch written from the paper and the layers of the authors'
nets (github.com/hszhao/PSPNet, github.com/hszhao/semseg), and, in the form "smp", with PSPNet of
segmentation_models.pytorch, which cuts the encoder off at stride 8 instead of dilating it.

Deviations: the authors take images of 8k + 1 pixels, whose corners fall on those of the features; others are padded
to that at the bottom and the right (in the form "smp" to 8k, as that asks for), and the logits are cropped. Weights
start as He et al. 2015, where no weights of a classifier are loaded. The auxiliary loss has the weight
config.loss.auxiliary, 0.4 in the paper (section 5.1).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import build_backbone
from segjax.models.layers.conv import ConvBlock
from segjax.models.layers.head import FCNHead
from segjax.models.layers.pool import adaptive_average_pool
from segjax.models.layers.upsample import resize_bilinear
from segjax.models.output import Output

VARIANTS = {
    # Zhao et al. 2017, section 5.2: depths of the ResNet.
    "resnet50": dict(backbone="resnet50"),
    "resnet101": dict(backbone="resnet101"),
    # The defaults of segmentation_models_pytorch.PSPNet. Its files hold the whole encoder, of which a part is used:
    # config.init.allow_unused="encoder\.layer[34]".
    "smp": dict(backbone="resnet34", form="smp", stem="7x7", deepest=8, auxiliary=False, dropout=0.2),
}


class PSPNet(nn.Module):
    """PSPNet on a ResNet. Needs the "dropout" rng in training.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      backbone: a ResNet among BACKBONES.
      form: "paper", or "smp": there the single cell has no normalisation, the pyramid comes before the features, and
        the two last convolutions have kernels of 1x1 and 3x3 instead of 3x3 and 1x1.
      stem: of the ResNet: "deeplab" in the authors' nets, "7x7" in smp's.
      output_stride: of the features: 8 as published, 16 or 32.
      deepest: level of the features that are pooled: 32 as published, 16 or 8.
      auxiliary: in training, score the features of level 16 too (section 4, figure 4).
      bins: rows and columns of the pyramid's cells.
      channels: after the fusion of pyramid and features.
      dropout: rate of whole feature maps in each head.
      width: of the backbone, 64 as published.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "resnet50"
    form: str = "paper"
    stem: str = "deeplab"
    output_stride: int = 8
    deepest: int = 32
    auxiliary: bool = True
    bins: tuple = (1, 2, 3, 6)
    channels: int = 512
    dropout: float = 0.1
    width: int = 64

    def __post_init__(self):
        if not self.backbone.startswith("resnet"):
            raise ValueError(f"PSPNet's backbone must be a ResNet among BACKBONES; received {self.backbone!r}")
        choices = {"form": ("paper", "smp"), "output_stride": (8, 16, 32), "deepest": (8, 16, 32)}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"PSPNet's {field} must be in {allowed}; received {getattr(self, field)!r}")
        if self.auxiliary and self.deepest < 32:
            raise ValueError(f"PSPNet's auxiliary head needs deepest=32; received deepest={self.deepest}")
        if not self.bins or min(self.bins) < 1 or min(self.channels, self.width) < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "PSPNet needs bins >= 1, channels >= 1, width >= 1 and 0 <= dropout < 1; received"
                f" bins={tuple(self.bins)}, channels={self.channels}, width={self.width}, dropout={self.dropout}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array | Output:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        In training with `auxiliary`, `Output` with one set of auxiliary logits of that shape.
        """
        height, width = image.shape[1:3]
        stride, beyond = min(self.output_stride, self.deepest), 1 if self.form == "paper" else 0
        pads = [(0, (beyond - size) % stride) for size in (height, width)]
        image = jnp.pad(image, ((0, 0), *pads, (0, 0)))
        features = build_backbone(
            self.backbone,
            dtype=self.dtype,
            output_stride=self.output_stride,
            stem=self.stem,
            dilate_first=True,
            deepest=self.deepest,
            width=self.width,
            name="backbone",
        )(image, train=train)

        def score(x, channels, windows, name):
            head = FCNHead(
                self.num_classes, channels, windows, self.dropout, whole_maps=True, dtype=self.dtype, name=name
            )
            logits = resize_bilinear(head(x, train=train), image.shape[1:3], align_corners=True)
            return logits[:, :height, :width]

        x = self._pyramid(features[self.deepest], train)
        logits = score(x, self.channels, (3, 1) if self.form == "paper" else (1, 3), "head")
        if self.auxiliary and (train or self.is_initializing()):
            auxiliary = score(features[16], None, (3, 1), "auxiliary_head")
            return Output(logits, (auxiliary,)) if train else logits
        return logits

    def _pyramid(self, x, train):
        """Section 3.2: the features and what is averaged over each grid of cells, by 1/len(bins) of the channels."""
        pooled = []
        for bins in self.bins:
            y = ConvBlock(
                x.shape[-1] // len(self.bins),
                (1, 1),
                norm="none" if bins == 1 and self.form == "smp" else "batch",
                dtype=self.dtype,
                name=f"pyramid{bins}",
            )(adaptive_average_pool(x, (bins, bins)), train=train)
            pooled.append(resize_bilinear(y, x.shape[1:3], align_corners=True))
        return jnp.concatenate([x, *pooled] if self.form == "paper" else [*pooled, x], axis=-1)

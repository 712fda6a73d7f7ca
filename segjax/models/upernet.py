"""UPerNet. Xiao, Liu, Zhou, Jiang and Sun, "Unified Perceptual Parsing for Scene Understanding", ECCV 2018.

arXiv:1807.10221, section 3 and figure 4, of which this is the branch that labels objects: PSPNet's pyramid of pooled
cells on the deepest features, a feature pyramid network over the other three, and one convolution over all four. It is
the head of Swin Transformer (Liu et al. 2021, arXiv:2103.14030, table 3) and of ConvNeXt (Liu et al. 2022,
arXiv:2201.03545, table 4) on ADE20K. Compared with UperNetForSemanticSegmentation of Hugging Face's transformers, which
holds the weights of mmsegmentation: 59,941,862 parameters on Swin-T and 60,242,636 on ConvNeXt-T with 150 classes and
the auxiliary head.

Deviations: the auxiliary head and the dropout before the scores are mmsegmentation's; the paper has no auxiliary loss,
transformers no dropout. Sizes that are no multiples of 32 are padded in the backbones, see there. Weights of the heads
start as He et al. 2015.
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
    # Liu et al. 2021, table 3, on ADE20K: multi-scale mIoU of 46.1, 49.3 and, trained on ImageNet-22K with 640x640
    # pixels, 51.6. The published files of B have windows of 12.
    "swin-tiny": dict(backbone="swin_tiny"),
    "swin-small": dict(backbone="swin_small"),
    "swin-base": dict(backbone="swin_base", window=12),
    # Liu et al. 2022, table 4: 46.7, 49.6 and 49.9; the rates of stochastic depth are those of the authors' code.
    "convnext-tiny": dict(backbone="convnext_tiny", drop_path=0.4),
    "convnext-small": dict(backbone="convnext_small", drop_path=0.3),
    "convnext-base": dict(backbone="convnext_base", drop_path=0.4),
    # Xiao et al. 2018; the stem of the authors' ResNet has three convolutions instead of one.
    "resnet50": dict(backbone="resnet50"),
}

FIELDS = {
    "swin": ("width", "depths", "head_dim", "window", "drop_path", "attention"),
    "convnext": ("width", "depths", "drop_path"),
    "resnet": ("width",),
}
"""By the beginning of a backbone's name: those of its fields that are UPerNet's too."""


class UPerNet(nn.Module):
    """UPerNet on a Swin Transformer, a ConvNeXt or a ResNet. Needs the "dropout" rng in training.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      backbone: a Swin, ConvNeXt or ResNet among BACKBONES.
      bins: rows and columns of the pyramid's cells.
      channels: of the pyramids and their fusion.
      auxiliary: in training, score the features of level 16 too.
      auxiliary_channels: of that head.
      dropout: rate of whole feature maps in each head.
      width, depths, head_dim, window, drop_path, attention: those of the backbone, if it has them, see FIELDS; its
        own defaults where None.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "swin_tiny"
    bins: tuple = (1, 2, 3, 6)
    channels: int = 512
    auxiliary: bool = True
    auxiliary_channels: int = 256
    dropout: float = 0.1
    width: int | None = None
    depths: tuple | None = None
    head_dim: int | None = None
    window: int | None = None
    drop_path: float | None = None
    attention: bool | None = None

    def __post_init__(self):
        own = next((names for start, names in FIELDS.items() if self.backbone.startswith(start)), None)
        if own is None:
            raise ValueError(
                f"UPerNet's backbone must be a Swin, ConvNeXt or ResNet among BACKBONES; received {self.backbone!r}"
            )
        alien = [name for name in _given(self) if name not in own]
        if alien:
            raise ValueError(f"{self.backbone} has {', '.join(own)} to be set; received {', '.join(alien)}")
        channels = min(self.channels, self.auxiliary_channels)
        if not self.bins or min(self.bins) < 1 or channels < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "UPerNet needs bins >= 1, channels and auxiliary_channels >= 1 and 0 <= dropout < 1; received"
                f" bins={tuple(self.bins)}, channels={self.channels}, auxiliary_channels={self.auxiliary_channels},"
                f" dropout={self.dropout}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array | Output:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        In training with `auxiliary`, `Output` with one set of auxiliary logits of that shape.
        """
        backbone = build_backbone(self.backbone, dtype=self.dtype, name="backbone", **_given(self))
        features = backbone(image, train=train)

        def conv(x, size, name):
            return ConvBlock(self.channels, (size, size), dtype=self.dtype, name=name)(x, train=train)

        def score(x, channels, name):
            head = FCNHead(
                self.num_classes, channels, dropout=self.dropout, whole_maps=True, dtype=self.dtype, name=name
            )
            return resize_bilinear(head(x, train=train), image.shape[1:3])

        x = features[32]
        cells = [conv(adaptive_average_pool(x, (bins, bins)), 1, f"pyramid{bins}") for bins in self.bins]
        cells = [resize_bilinear(y, x.shape[1:3]) for y in cells]
        x = conv(jnp.concatenate([x, *cells], axis=-1), 3, "pyramid")
        levels = [x]
        for level in (16, 8, 4):
            lateral = conv(features[level], 1, f"lateral{level}")
            x = lateral + resize_bilinear(x, lateral.shape[1:3])
            levels.append(conv(x, 3, f"level{level}"))
        x = jnp.concatenate([resize_bilinear(y, x.shape[1:3]) for y in reversed(levels)], axis=-1)
        logits = score(x, self.channels, "head")
        if self.auxiliary and (train or self.is_initializing()):
            auxiliary = score(features[16], self.auxiliary_channels, "auxiliary_head")
            return Output(logits, (auxiliary,)) if train else logits
        return logits


def _given(model: UPerNet) -> dict[str, Any]:
    """The fields of the backbone that are set."""
    fields = {name: getattr(model, name) for names in FIELDS.values() for name in names}
    return {name: value for name, value in fields.items() if value is not None}

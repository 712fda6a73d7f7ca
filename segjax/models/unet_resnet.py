"""U-Net whose contracting path is a ResNet that may have been trained on ImageNet.

The expanding path is that of Ronneberger, Fischer and Brox, MICCAI 2015, arXiv:1505.04597, figure 1, with nearest
upsampling instead of transposed convolutions, padded convolutions and batch normalisation, and there is no skip at
full resolution: the form of Unet in segmentation_models.pytorch, with which it was compared. There is no paper of it;
Iglovikov and Shvets 2018, "TernausNet", arXiv:1801.05746, made the idea known. attention="scse" adds the blocks of Roy,
Navab and Wachinger 2018, arXiv:1803.02579, as its decoder_attention_type="scse" does.

Deviations: where H or W is no multiple of 32, which segmentation_models.pytorch refuses, the image is padded with
zeros at the bottom and the right, and the logits are cropped. Weights that are not loaded start as He et al. 2015,
normal instead of uniform. The last level has no skip connection and so a single scSE block, where
segmentation_models.pytorch keeps a second one among its weights without using it.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import build_backbone
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.scse import SCSE
from segjax.models.remember import Remember, pass_on

VARIANTS = {
    # The default encoder of segmentation_models_pytorch.Unet, and a larger one.
    "resnet34": dict(backbone="resnet34"),
    "resnet50": dict(backbone="resnet50"),
}


class UNetResNet(nn.Module):
    """U-Net on a ResNet; 24,436,369 parameters on resnet34 with one class.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      backbone: a ResNet among BACKBONES.
      decoder_channels: of each level of the expanding path, from stride 16 to 1.
      width: of the backbone, 64 as published.
      attention: "none", or "scse" after each skip connection and at the end of each level.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "resnet34"
    decoder_channels: tuple = (256, 128, 64, 32, 16)
    width: int = 64
    attention: str = "none"

    def __post_init__(self):
        if not self.backbone.startswith("resnet"):
            raise ValueError(f"UNetResNet's backbone must be a ResNet among BACKBONES; received {self.backbone!r}")
        if self.attention not in ("none", "scse"):
            raise ValueError(f"UNetResNet's attention must be in ('none', 'scse'); received {self.attention!r}")
        channels = tuple(self.decoder_channels)
        if len(channels) != 5 or min(channels) < 1 or self.width < 1:
            raise ValueError(
                "UNetResNet needs five decoder_channels >= 1 and width >= 1; received"
                f" decoder_channels={channels}, width={self.width}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False, remember: Remember = pass_on) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        `remember` is what a recurrent network puts between the two paths, at strides 2 to 32.
        """
        height, width = image.shape[1:3]
        image = jnp.pad(image, ((0, 0), (0, -height % 32), (0, -width % 32), (0, 0)))
        features = build_backbone(self.backbone, dtype=self.dtype, width=self.width, name="backbone")(
            image, train=train
        )
        features = {stride: remember(stride, x) for stride, x in features.items()}
        x = features[32]
        for level, channels in zip((16, 8, 4, 2, 1), self.decoder_channels, strict=True):
            x = _double(x)
            if level in features:
                x = jnp.concatenate([x, features[level]], axis=-1)
                x = self._attend(x, f"up{level}_attention1")
            for i in (1, 2):
                x = ConvBlock(channels, dtype=self.dtype, name=f"up{level}_conv{i}")(x, train=train)
            x = self._attend(x, f"up{level}_attention2")
        logits = Conv(self.num_classes, (3, 3), dtype=self.dtype, name="head")(x)
        return logits[:, :height, :width].astype(jnp.float32)

    def _attend(self, x, name):
        return x if self.attention == "none" else SCSE(reduction=16, dtype=self.dtype, name=name)(x)


def _double(x: jax.Array) -> jax.Array:
    """Nearest upsampling by 2: [N, H, W, C] to [N, 2 H, 2 W, C]."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)

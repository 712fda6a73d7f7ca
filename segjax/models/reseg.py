"""ReSeg: A Recurrent Neural Network-based Model for Semantic Segmentation. Visin et al., CVPR workshops 2016.

arXiv:1511.07053, section 3: the first seven convolutions of VGG16 (conv1_1 to conv3_3), ReNet layers, transposed
convolutions that restore the resolution, and a classifier of each pixel. Sizes are those of the authors' settings for
CamVid (github.com/fvisin/reseg, evaluate_camvid_with_cb.py): two ReNet layers of 100 GRUs on patches of 1x1, two
upsamplings of 2x2 with 50 channels and ReLU. Compared with a PyTorch version written from these.

Deviations
- The image is padded with zeros at the bottom and the right to whole patches, and the logits are cropped.
- In the authors' code the network that sweeps backward reads what the forward one found (layers.py); in the paper, and
  here, both read the same.
- Where no weights of a classifier are loaded, VGG16 starts as He et al. 2015; `batch_norm` is not in the paper. The
  authors' recurrent weights start from a Gaussian of 0.1, see `Sweep` for ours.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.vgg import VGG16
from segjax.models.layers.conv import Conv
from segjax.models.layers.pad import pad_image
from segjax.models.layers.renet import GATES, ReNet
from segjax.models.layers.upsample import ConvTranspose

VGG_STRIDE = 4
"""Of conv3_3."""


class ReSeg(nn.Module):
    """ReSeg on VGG16; 2,542,149 parameters with 11 classes.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters, states and logits are float32.
      hidden: units of the four networks of each ReNet layer.
      patches: side of the patches of each ReNet layer, powers of two.
      cell: "gru" as published, or "lstm".
      up_features: channels of each upsampling by 2, as many as restore the image's resolution.
      width: channels of VGG16's first stage, 64 as published.
      batch_norm: normalise in VGG16.
    """

    num_classes: int
    dtype: Any = jnp.float32
    hidden: tuple = (100, 100)
    patches: tuple = (1, 1)
    cell: str = "gru"
    up_features: tuple = (50, 50)
    width: int = 64
    batch_norm: bool = False

    def __post_init__(self):
        if self.cell not in GATES or self.width < 1 or not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"ReSeg needs cell in {tuple(GATES)}, width >= 1 and one or more hidden >= 1; received"
                f" cell={self.cell!r}, width={self.width}, hidden={self.hidden}"
            )
        whole = len(self.patches) == len(self.hidden) and min(self.patches) >= 1
        if not whole or 2 ** len(self.up_features) != self.stride or min(self.up_features) < 1:
            raise ValueError(
                "ReSeg needs a side for each ReNet layer's patches, and as many up_features >= 1 as doublings restore"
                f" the resolution, {VGG_STRIDE} times the patches' sides; received hidden={self.hidden},"
                f" patches={self.patches}, up_features={self.up_features}"
            )
        super().__post_init__()

    @property
    def stride(self) -> int:
        """Of the last ReNet layer."""
        return VGG_STRIDE * math.prod(self.patches)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes]."""
        height, width = image.shape[1:3]
        image = pad_image(image, self.stride)
        backbone = VGG16(self.dtype, self.width, self.batch_norm, stages=3, pool_last=False, name="backbone")
        x = backbone(image, train=train)[8]
        for index, (hidden, patch) in enumerate(zip(self.hidden, self.patches, strict=True)):
            x = ReNet(hidden, patch, self.cell, self.dtype, name=f"renet{index}")(x)
        glorot = nn.initializers.glorot_uniform()
        for index, features in enumerate(self.up_features):
            x = nn.relu(ConvTranspose(features, kernel_init=glorot, dtype=self.dtype, name=f"up{index}")(x))
        logits = Conv(self.num_classes, (1, 1), dtype=self.dtype, name="head")(x)
        return logits[:, :height, :width].astype(jnp.float32)

"""Fully Convolutional Networks for Semantic Segmentation. Long, Shelhamer and Darrell, CVPR 2015; PAMI 2017.

arXiv:1411.4038 and arXiv:1605.06211. FCN-32s, -16s and -8s on VGG16 whose fully connected layers became
convolutions (section 4). Compared with the description in the papers and with the layers of the authors'
Caffe nets (github.com/shelhamer/fcn.berkeleyvision.org: voc-fcn32s, voc-fcn16s, voc-fcn8s, voc-fcn8s-atonce).

Deviations
- The Caffe nets pad the image by 100 pixels, run fc6 without padding and crop scores by fixed offsets. Here
  the image is padded with zeros at the bottom and the right to a multiple of 32 and fc6 is padded by 3, so
  all grids line up and nothing is cropped but that padding. The receptive field of a score is the same, but
  its cells are centred on those of pool5 and the borders see less of the zeros.
- Scores are continued by one cell of their edge before they are upsampled. Otherwise a transposed convolution
  lets them fade to zero over the outer half cell; the Caffe nets crop that part away.
- The last upsampling, fixed to bilinear interpolation in the paper, is a bilinear resize without parameters,
  unless `learn_final`. (In the Caffe nets the intermediate ones are fixed too; in the paper they are learned,
  as here.)
- Weights that do not start at zero or from bilinear interpolation start as He et al. 2015, where no weights
  of a classifier are loaded.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.vgg import VGG16
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.upsample import ConvTranspose, bilinear_init, resize_bilinear
from segjax.models.remember import Remember, pass_on

VARIANTS = {
    # Long et al. 2015, table 2 and figure 3.
    "32s": dict(stride=32),
    "16s": dict(stride=16),
    "8s": dict(stride=8),
    # Shelhamer et al. 2017, "all-at-once" training: scales of voc-fcn8s-atonce.
    "8s-at-once": dict(stride=8, pool4_scale=0.01, pool3_scale=0.0001),
}


class FCN(nn.Module):
    """FCN on VGG16. Needs the "dropout" rng in training.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      stride: of the finest scores: 32, 16 (fuses pool4) or 8 (fuses pool4 and pool3).
      width: channels of VGG16's first stage, 64 as published.
      fc_channels: of fc6 and fc7, 4096 as published.
      batch_norm: normalise in VGG16; not in the paper.
      dropout: rate after fc6 and fc7.
      pool4_scale, pool3_scale: factors on what is scored there; 1 for training in stages.
      learn_final: learn the last upsampling too, from bilinear interpolation on.
    """

    num_classes: int
    dtype: Any = jnp.float32
    stride: int = 8
    width: int = 64
    fc_channels: int = 4096
    batch_norm: bool = False
    dropout: float = 0.5
    pool4_scale: float = 1.0
    pool3_scale: float = 1.0
    learn_final: bool = False

    def __post_init__(self):
        if self.stride not in (8, 16, 32):
            raise ValueError(f"FCN's stride must be 8, 16 or 32; received {self.stride!r}")
        if self.width < 1 or self.fc_channels < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "FCN needs width >= 1, fc_channels >= 1 and 0 <= dropout < 1;"
                f" received width={self.width}, fc_channels={self.fc_channels}, dropout={self.dropout}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False, remember: Remember = pass_on) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        `remember` is what a recurrent network puts before the scores, at strides 32, 16 and 8.
        """
        height, width = image.shape[1:3]
        image = jnp.pad(image, ((0, 0), (0, -height % 32), (0, -width % 32), (0, 0)))
        features = VGG16(self.dtype, self.width, self.batch_norm, name="backbone")(image, train=train)
        x = features[32]
        for name, window in (("fc6", (7, 7)), ("fc7", (1, 1))):
            x = ConvBlock(self.fc_channels, window, norm="none", dtype=self.dtype, name=name)(x, train=train)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        scores = self._score(remember(32, x), "score_fc7")
        for name, stride, scale in (("pool4", 16, self.pool4_scale), ("pool3", 8, self.pool3_scale)):
            if stride >= self.stride:
                skip = self._score(scale * remember(stride, features[stride]), f"score_{name}")
                scores = self._upsample(scores, 2, f"upscore_{name}") + skip
        if self.learn_final:
            logits = self._upsample(scores, self.stride, "upscore_final").astype(jnp.float32)
        else:
            logits = resize_bilinear(scores.astype(jnp.float32), image.shape[1:3])
        return logits[:, :height, :width]

    def _score(self, x, name):
        # Zero-initialised, section 4.2; each added skip thus starts without changing the prediction.
        zeros = nn.initializers.zeros
        return Conv(self.num_classes, (1, 1), kernel_init=zeros, dtype=self.dtype, name=name)(x)

    def _upsample(self, scores, factor, name):
        scores = jnp.pad(scores, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        up = ConvTranspose(
            self.num_classes,
            stride=factor,
            kernel_size=2 * factor,
            use_bias=False,
            kernel_init=bilinear_init,
            dtype=self.dtype,
            name=name,
        )(scores)
        edge = factor + factor // 2
        return up[:, edge:-edge, edge:-edge]

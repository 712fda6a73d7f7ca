"""ESPNet: Efficient Spatial Pyramid of Dilated Convolutions for Semantic Segmentation.

Mehta, Rastegari, Caspi, Shapiro and Hajishirzi, ECCV 2018, arXiv:1803.06815. The ESP module is section 3, the networks
are section 3.3 and figure 4: (c) is ESPNet-C, (d) ESPNet. Compared with a PyTorch form that was written from the paper
and from the names and shapes in the authors' checkpoint for CamVid, which loads by `segjax.convert.espnet`
(github.com/sacmehta/ESPNet). What the paper leaves open is as in that checkpoint's network: BatchNorm's epsilon is
1e-3, convolutions have no bias and pad with zeros, the module that halves the resolution has no residual connection
and takes its stride in the reduction, a 3x3 convolution there, and the image is halved by 3x3 averages that count the
padding.

Deviations
- The image is padded with zeros at the bottom and the right to a multiple of 8, and the logits are cropped; the
  authors' network takes multiples of 8 alone.
- ESPNet-C's logits are upsampled bilinearly to the input's size with half-pixel centres, in training too; its authors
  trained it on labels at an eighth of the size.
- Below 5 outputs the decoder keeps 5 channels, since its ESP module needs one a dilation.
- Weights start as He et al. 2015.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.conv import Conv
from segjax.models.layers.norm import BatchNorm
from segjax.models.layers.prelu import PReLU
from segjax.models.layers.upsample import ConvTranspose, resize_bilinear

VARIANTS = {
    # Section 4: alpha_2 = 2 in all networks, alpha_3 in {3, 5, 8}; 0.36 M parameters are those of the last (table 1).
    "c": dict(alpha2=2, alpha3=8, decoder=False),
    "q3": dict(alpha2=2, alpha3=3, decoder=True),
    "q5": dict(alpha2=2, alpha3=5, decoder=True),
    "q8": dict(alpha2=2, alpha3=8, decoder=True),
}

DILATIONS = (1, 2, 4, 8, 16)
"""Of the K = 5 branches of each module, 2**(k-1) (section 3)."""

EPSILON = 1e-3

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class NormAct(nn.Module):
    """Batch normalisation and PReLU."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to the same of `dtype`."""
        x = BatchNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x, train=train)
        return PReLU(dtype=self.dtype, name="act")(x)


class ESP(nn.Module):
    """Reduce, split, transform, merge (section 3, figure 1), with hierarchical feature fusion (section 3.2).

    A convolution reduces to d = features // 5 channels; five dilated 3x3 convolutions transform them; the results of
    dilations 2, 4, 8 and 16 are added up one after the other, so that each sum has smaller gaps than its last term;
    and all are concatenated. The branch of dilation 1 has the channels that division leaves over.

    Attributes:
      features: output channels, at least 5.
      stride: 2 reduces by a 3x3 convolution with this stride, 1 by a 1x1 convolution.
      residual: add the input, which must have `features` channels.
      dtype: compute dtype.
    """

    features: int
    stride: int = 1
    residual: bool = True
    dtype: Any = jnp.float32

    def __post_init__(self):
        if self.features < len(DILATIONS) or self.stride not in (1, 2) or (self.residual and self.stride != 1):
            raise ValueError(
                f"ESP needs features >= {len(DILATIONS)}, stride 1 or 2, and stride 1 where it is residual; received"
                f" features={self.features}, stride={self.stride}, residual={self.residual}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to [N, ceil(H / stride), ceil(W / stride), features] of `dtype`."""
        size = 1 if self.stride == 1 else 3
        channels = self.features // len(DILATIONS)
        strides = (self.stride, self.stride)
        reduced = _conv(channels, size, self.dtype, "reduce", strides=strides, padding=size // 2)(x)
        merged = []
        for d in DILATIONS:
            features = self.features - (len(DILATIONS) - 1) * channels if d == 1 else channels
            branch = _conv(features, 3, self.dtype, f"dilated{d}", padding=d, kernel_dilation=(d, d))(reduced)
            merged.append(branch + merged[-1] if d > 2 else branch)
        y = jnp.concatenate(merged, axis=-1)
        y = x.astype(self.dtype) + y if self.residual else y
        y = BatchNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(y, train=train)
        return PReLU(dtype=self.dtype, name="act")(y)


class Encoder(nn.Module):
    """ESPNet-C without the upsampling (figure 4c).

    Attributes:
      outputs: channels of the scores.
      alpha2, alpha3: ESP modules at strides 4 and 8 after those that halve the resolution.
      dtype: compute dtype.
    """

    outputs: int
    alpha2: int = 2
    alpha3: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """image [N, H, W, 3], H and W multiples of 8, to features at strides 2 and 4 and scores at stride 8.

        They have 19, 131 and `outputs` channels.
        """
        x = image.astype(self.dtype)
        half, quarter = _halved(x), _halved(_halved(x))  # efficient feature map sharing, section 3.3
        x = _conv(16, 3, self.dtype, "level1_conv", strides=(2, 2), padding=1)(x)
        x = NormAct(self.dtype, name="level1")(x, train=train)
        level1 = NormAct(self.dtype, name="concat1")(jnp.concatenate([x, half], axis=-1), train=train)
        down, x = self._level(level1, 2, 64, self.alpha2, train)
        level2 = jnp.concatenate([x, down, quarter], axis=-1)
        level2 = NormAct(self.dtype, name="concat2")(level2, train=train)
        down, x = self._level(level2, 3, 128, self.alpha3, train)
        x = NormAct(self.dtype, name="concat3")(jnp.concatenate([down, x], axis=-1), train=train)
        return level1, level2, _conv(self.outputs, 1, self.dtype, "head")(x)

    def _level(self, x, level, features, count, train):
        down = ESP(features, 2, residual=False, dtype=self.dtype, name=f"level{level}_down")(x, train=train)
        x = down
        for index in range(count):
            x = ESP(features, dtype=self.dtype, name=f"level{level}_esp{index}")(x, train=train)
        return down, x


class ESPNet(nn.Module):
    """ESPNet, or ESPNet-C where `decoder` is False.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      alpha2: ESP modules at stride 4, p in the authors' code.
      alpha3: ESP modules at stride 8, q in the authors' code.
      decoder: learn the upsampling (figure 4d), merging features of strides 4 and 2.
      void_output: the network has one more output after those of the classes, for unlabelled pixels, as the
        authors' networks have; it is dropped from the logits.
    """

    num_classes: int
    dtype: Any = jnp.float32
    alpha2: int = 2
    alpha3: int = 8
    decoder: bool = True
    void_output: bool = False

    def __post_init__(self):
        if self.alpha2 < 1 or self.alpha3 < 1:
            raise ValueError(f"ESPNet needs alpha2 and alpha3 >= 1; received {self.alpha2} and {self.alpha3}")
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """image floating [N, H, W, 3], any H and W >= 1, to logits float32 [N, H, W, num_classes]."""
        height, width = image.shape[1:3]
        image = jnp.pad(image, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)))
        outputs = self.num_classes + self.void_output
        channels = max(outputs, len(DILATIONS)) if self.decoder else outputs
        encoder = Encoder(channels, self.alpha2, self.alpha3, self.dtype, name="encoder")
        level1, level2, scores = encoder(image, train=train)
        if self.decoder:
            logits = self._decode(level1, level2, scores, outputs, train)
        else:
            logits = resize_bilinear(scores.astype(jnp.float32), image.shape[1:3])
        return logits[:, :height, :width, : self.num_classes].astype(jnp.float32)

    def _decode(self, level1, level2, scores, outputs, train):
        """Reduce, upsample, merge, from stride 8 to the image (section 3.3)."""
        channels, dtype = scores.shape[-1], self.dtype
        x = BatchNorm(epsilon=EPSILON, dtype=dtype, name="norm3")(scores, train=train)
        x = _up(channels, dtype, "up3_conv")(x)
        x = jnp.concatenate([_conv(channels, 1, dtype, "project2")(level2), x], axis=-1)
        x = NormAct(dtype, name="concat_decoder2")(x, train=train)
        x = ESP(channels, residual=False, dtype=dtype, name="decoder2")(x, train=train)
        x = NormAct(dtype, name="up2")(_up(channels, dtype, "up2_conv")(x), train=train)
        x = _conv(channels, 3, dtype, "decoder1_conv", padding=1)(jnp.concatenate([x, level1], axis=-1))
        x = NormAct(dtype, name="decoder1")(x, train=train)
        return _up(outputs, dtype, "head")(x)


def _conv(features, size, dtype, name, **kwargs):
    return Conv(features, (size, size), use_bias=False, kernel_init=HE_NORMAL, dtype=dtype, name=name, **kwargs)


def _up(features, dtype, name):
    return ConvTranspose(features, use_bias=False, kernel_init=HE_NORMAL, dtype=dtype, name=name)


def _halved(x):
    pads = ((1, 1), (1, 1))
    return nn.avg_pool(x, (3, 3), (2, 2), pads, count_include_pad=True)

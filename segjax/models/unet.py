"""U-Net: Convolutional Networks for Biomedical Image Segmentation.

Ronneberger, Fischer and Brox, MICCAI 2015, arXiv:1505.04597. Figure 1 is the network. VARIANTS names its
original form and the one in use today.

Deviations. The original form follows the paper; the image outside is mirrored as in its overlap-tile strategy
(section 2, figure 2), so that the logits cover the whole input. The modern form ("same" padding, batch
normalisation, convolutions without bias) is not in the paper: the input is padded with zeros at the bottom
and the right to a multiple of 2**depth, and the logits are cropped.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.pool import max_pool
from segjax.models.layers.upsample import ConvTranspose, resize_bilinear
from segjax.models.remember import Remember, pass_on

VARIANTS = {
    # Ronneberger et al. 2015, figure 1, from which 31,030,658 parameters follow for 1 input channel and 2 classes.
    "original": dict(padding="valid", norm="none", dropout=0.5, up="transposed", width=64, depth=4),
    "modern": dict(padding="same", norm="batch", dropout=0.0, up="transposed", width=64, depth=4),
}

# Section 3: Gaussian of standard deviation sqrt(2 / N), N the incoming nodes of one neuron.
HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

Gate = Callable[[int, jax.Array, jax.Array], jax.Array]
"""(stride, skip connection [N, H, W, C], features of the level below on their way up) -> skip connection"""


def pass_skip(stride: int, skip: jax.Array, below: jax.Array) -> jax.Array:
    """The skip connection as it is: the network of the paper."""
    del stride, below
    return skip


class UNet(nn.Module):
    """U-Net. Needs the "dropout" rng in training where `dropout` is not 0.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      width: channels of the first level; each level below has twice as many.
      depth: number of poolings.
      padding: "valid" as published, or "same".
      norm: "none" as published, or "batch" after each 3x3 convolution.
      dropout: rate after the last two levels of the contracting path (section 3.1); the paper gives no rate.
      up: "transposed" 2x2 convolution as published, or "bilinear" resizing after a 1x1 convolution.
      skips: False for an encoder and decoder without skip connections, the ablation of Drozdzal et al. 2016
        (arXiv:1608.04117); the first convolution of each level on the way up then reads half as many channels.
    """

    num_classes: int
    dtype: Any = jnp.float32
    width: int = 64
    depth: int = 4
    padding: str = "same"
    norm: str = "batch"
    dropout: float = 0.0
    up: str = "transposed"
    skips: bool = True

    def __post_init__(self):
        choices = {"padding": ("valid", "same"), "norm": ("none", "batch"), "up": ("transposed", "bilinear")}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"UNet's {field} must be in {allowed}; received {getattr(self, field)!r}")
        if self.depth < 1 or self.width < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "UNet needs depth >= 1, width >= 1 and 0 <= dropout < 1;"
                f" received depth={self.depth}, width={self.width}, dropout={self.dropout}"
            )
        super().__post_init__()

    def __call__(
        self, image: jax.Array, *, train: bool = False, remember: Remember = pass_on, gate: Gate = pass_skip
    ) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        `remember` is what a recurrent network puts between the two paths, at strides 1 to 2**depth, and `gate` what an
        attention network puts on the skip connections, at strides 2**(depth - 1) to 1; it is not called without them.
        """
        height, width = image.shape[1:3]
        if self.padding == "valid":
            image = _mirror(_mirror(image, 1, self.depth), 2, self.depth)
        else:
            step = 2**self.depth
            image = jnp.pad(image, ((0, 0), (0, -height % step), (0, -width % step), (0, 0)))
        return self.network(image, train=train, remember=remember, gate=gate)[:, :height, :width]

    def tile_input(self, window: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the input from which `network` computes a window or more of logits.

        Raises:
          ValueError: the padding is not "valid", so that no logits are free of it.
        """
        if self.padding != "valid":
            raise ValueError(f"tiles need a UNet with padding='valid'; received {self.padding!r}")
        return tuple(valid_sizes(size, self.depth)[0] for size in window)

    @nn.compact
    def network(
        self, image: jax.Array, *, train: bool = False, remember: Remember = pass_on, gate: Gate = pass_skip
    ) -> jax.Array:
        """The network of figure 1 alone: no padding around it and no cropping after it.

        With "valid" padding H and W must be sizes that `valid_sizes` gives, and the logits are smaller (572
        to 388 at depth 4); with "same" they must be multiples of 2**depth, and the logits have the same size.
        """
        x = image.astype(self.dtype)
        skips = []
        for level in range(self.depth):
            x = self._two_convolutions(x, level, f"down{level}", train)
            if level == self.depth - 1:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            skips.append(remember(2**level, x))
            x = max_pool(x)
        x = self._two_convolutions(x, self.depth, f"down{self.depth}", train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = remember(2**self.depth, x)
        for level in reversed(range(self.depth)):
            skip = gate(2**level, skips[level], x) if self.skips else None
            x = self._upsample(x, level)
            if skip is not None:
                x = jnp.concatenate([_centre_crop(skip, x.shape[1:3]), x], axis=-1)
            x = self._two_convolutions(x, level, f"up{level}", train)
        logits = Conv(self.num_classes, (1, 1), kernel_init=HE_NORMAL, dtype=self.dtype, name="head")(x)
        return logits.astype(jnp.float32)

    def _two_convolutions(self, x, level, name, train):
        for i in range(2):
            x = ConvBlock(
                self.width * 2**level,
                padding=self.padding.upper(),
                norm=self.norm,
                kernel_init=HE_NORMAL,
                dtype=self.dtype,
                name=f"{name}_conv{i}",
            )(x, train=train)
        return x

    def _upsample(self, x, level):
        features, name = self.width * 2**level, f"up{level}"
        if self.up == "bilinear":
            # Resizing and a 1x1 convolution commute; the convolution costs a quarter on the small side.
            x = Conv(features, (1, 1), kernel_init=HE_NORMAL, dtype=self.dtype, name=name)(x)
            return resize_bilinear(x, (2 * x.shape[1], 2 * x.shape[2]))
        # With stride 2 a 2x2 kernel meets each output once, so the incoming nodes are the channels alone.
        normal = nn.initializers.normal(float(np.sqrt(2 / x.shape[-1])))
        return ConvTranspose(features, kernel_init=normal, dtype=self.dtype, name=name)(x)


def valid_sizes(size: int, depth: int) -> tuple[int, int]:
    """The smallest input and output side of the unpadded network whose output has at least `size` pixels.

    (572, 388) for 388 and depth 4, as in figure 1. The difference depends on the depth alone.
    """
    bottom = size
    for _ in range(depth):
        bottom = -(-(bottom + 4) // 2)
    bottom, inner = bottom + 4, bottom
    for _ in range(depth):
        bottom, inner = 2 * bottom + 4, 2 * inner - 4
    return bottom, inner


def _mirror(image, axis, depth):
    size = image.shape[axis]
    entering, leaving = valid_sizes(size, depth)
    before = (entering - leaving) // 2
    # NumPy goes on mirroring where the margin is larger than the image.
    indices = np.pad(np.arange(size), (before, entering - size - before), mode="reflect")
    return jnp.take(image, indices, axis=axis)


def _centre_crop(x, size):
    top, left = (x.shape[1] - size[0]) // 2, (x.shape[2] - size[1]) // 2
    return x[:, top : top + size[0], left : left + size[1]]

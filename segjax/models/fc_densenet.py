"""The One Hundred Layers Tiramisu. Jegou, Drozdzal, Vazquez, Romero and Bengio, CVPR workshops 2017.

arXiv:1611.09326, figure 1 and tables 1 and 2. Compared with a network that was written in PyTorch from the paper
(tests/references/fc_densenet.py), and with the layers of the authors' Lasagne code (github.com/SimJeg/FC-DenseNet):
all convolutions have a bias, a transition up is cropped to its skip at the bottom and the right, and the numbers of
channels in table 2 are 16 too small from the bottleneck on, as its README says.

With the running statistics, which the authors' code counts too, FC-DenseNet67 and 103 have the published 3.5 and 9.4
million parameters. FC-DenseNet56 has 1.4 million, not the 1.5 million of the paper; tables 1 and 2 leave no freedom.

Deviations
- The paper uses the statistics of the current batch in evaluation too (section 4.1). Here it is the running ones, so
  that the logits of an image do not depend on the others.
- The epsilon of the normalisation is 1e-4, as in Lasagne; the paper names none.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.conv import Conv
from segjax.models.layers.pool import max_pool
from segjax.models.layers.preactivation import NormReluConv
from segjax.models.layers.upsample import ConvTranspose

VARIANTS = {
    # Section 4.1 and table 2.
    "56": dict(layers=(4,) * 11, growth=12),
    "67": dict(layers=(5,) * 11, growth=16),
    "103": dict(layers=(4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4), growth=16),
}

HE_UNIFORM = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
"""Section 4.1: HeUniform (He et al. 2015)."""

EPSILON = 1e-4


class FCDenseNet(nn.Module):
    """FC-DenseNet. Needs the "dropout" rng in training where `dropout` is not 0.

    Its parts are `first`, `down1`, `transition_down1`, ..., `bottleneck`, `transition_up1`, `up1`, ..., `head`.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      layers: of each dense block: of those on the way down, of the bottleneck, of as many on the way up.
      growth: channels that each layer adds, 12 or 16 as published.
      first_features: channels of the first convolution, 48 as published.
      dropout: rate after each convolution of a dense block and of a transition down, 0.2 as published.
      remat: compute the dense blocks' inner features again in the backward pass instead of keeping them. On CPUs it
        saves nothing, since XLA merges the two computations again there.
    """

    num_classes: int
    dtype: Any = jnp.float32
    layers: tuple = VARIANTS["56"]["layers"]
    growth: int = VARIANTS["56"]["growth"]
    first_features: int = 48
    dropout: float = 0.2
    remat: bool = False

    def __post_init__(self):
        if len(self.layers) % 2 == 0 or min(self.layers) < 1:
            raise ValueError(
                "FCDenseNet's layers must be an odd count of numbers above 0, the bottleneck's in the middle;"
                f" received {tuple(self.layers)}"
            )
        if self.growth < 1 or self.first_features < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "FCDenseNet needs growth >= 1, first_features >= 1 and 0 <= dropout < 1; received"
                f" growth={self.growth}, first_features={self.first_features}, dropout={self.dropout}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes]."""
        height, width = image.shape[1:3]
        depth = len(self.layers) // 2
        # Each pooling leaves a last odd row or column out, and the way up has it back from the skip. So only an
        # image that would vanish needs padding.
        smallest = 2**depth
        image = jnp.pad(image, ((0, 0), (0, max(smallest - height, 0)), (0, max(smallest - width, 0)), (0, 0)))
        x = Conv(self.first_features, (3, 3), kernel_init=HE_UNIFORM, dtype=self.dtype, name="first")(image)
        skips = []
        for i, layers in enumerate(self.layers[:depth], start=1):
            x = jnp.concatenate([x, self._dense_block(x, layers, f"down{i}", train)], axis=-1)
            skips.append(x)
            x = NormReluConv(
                x.shape[-1],
                (1, 1),
                use_bias=True,
                kernel_init=HE_UNIFORM,
                epsilon=EPSILON,
                dropout=self.dropout,
                dtype=self.dtype,
                name=f"transition_down{i}",
            )(x, train=train)
            x = max_pool(x)
        new = self._dense_block(x, self.layers[depth], "bottleneck", train)
        for i, layers in enumerate(self.layers[depth + 1 :], start=1):
            # Only what the block added is upsampled (section 3.2).
            x = ConvTranspose(new.shape[-1], 2, 3, kernel_init=HE_UNIFORM, dtype=self.dtype, name=f"transition_up{i}")(
                new
            )
            skip = skips.pop()
            x = jnp.concatenate([x[:, : skip.shape[1], : skip.shape[2]], skip], axis=-1)
            new = self._dense_block(x, layers, f"up{i}", train)
        # Only the last block's input is read once more (table 2).
        x = jnp.concatenate([x, new], axis=-1)
        logits = Conv(self.num_classes, (1, 1), kernel_init=HE_UNIFORM, dtype=self.dtype, name="head")(x)
        return logits[:, :height, :width].astype(jnp.float32)

    def _dense_block(self, x, layers, name, train):
        block = nn.remat(DenseBlock, static_argnums=(2,)) if self.remat else DenseBlock
        return block(layers, self.growth, self.dropout, self.dtype, name=name)(x, train)


class DenseBlock(nn.Module):
    """Layers that each read the input and what all layers before them added (section 3.1, figure 2).

    Attributes:
      layers: how many; they are named `layer1`, `layer2`, ...
      growth: channels that each adds.
      dropout: rate after each layer's convolution.
      dtype: compute dtype.
    """

    layers: int
    growth: int
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C] to what the layers added, [N, H, W, layers * growth] of `dtype`."""
        added = []
        for i in range(1, self.layers + 1):
            new = NormReluConv(
                self.growth,
                use_bias=True,
                kernel_init=HE_UNIFORM,
                epsilon=EPSILON,
                dropout=self.dropout,
                dtype=self.dtype,
                name=f"layer{i}",
            )(jnp.concatenate([x, *added], axis=-1), train=train)
            added.append(new)
        return jnp.concatenate(added, axis=-1)

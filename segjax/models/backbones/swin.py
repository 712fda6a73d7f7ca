"""Swin Transformer: Hierarchical Vision Transformer using Shifted Windows. Liu et al., ICCV 2021, arXiv:2103.14030.

Section 3 and table 7: patches of 4x4 pixels, four stages of blocks whose attention is within windows, shifted by half
a window in every second block, and between the stages 2x2 patches become one. As a backbone each stage's output is
normalised, as in the authors' segmentation networks. Compared with the Swin backbone of Hugging Face's transformers.

Deviations: -inf instead of -100 forbids pixels that come from opposite ends of the image to see one another.
transformers drops in training only the branches of attention; here, as in the authors' code, those of the MLPs too.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.layers.drop_path import DropPath
from segjax.models.layers.pad import pad_image
from segjax.models.layers.patches import Patches
from segjax.models.layers.transformer import MLP, Dense, LayerNorm
from segjax.models.layers.window_attention import WindowAttention


class Swin(nn.Module):
    """Swin-T: 27,520,698 parameters, of which 2,880 are the norms of the outputs. Needs the "dropout" rng in training.

    Attributes:
      dtype: compute dtype.
      width: channels of the first stage, C in the paper: 96 in T and S, 128 in B.
      depths: blocks of each stage.
      head_dim: channels of a head, 32 as published. It must divide `width`.
      window: rows and columns of a window, M: 7, or 12 in networks that were trained on images of 384x384.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0 in the first one.
      attention: False gives all pixels of a window the same weight: see `WindowAttention.attend`.
    """

    dtype: Any = jnp.float32
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    head_dim: int = 32
    window: int = 7
    drop_path: float = 0.2
    attention: bool = True

    def __post_init__(self):
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise ValueError(f"Swin needs four depths >= 1; received depths={tuple(self.depths)}")
        if min(self.width, self.head_dim, self.window) < 1 or self.width % self.head_dim or not 0 <= self.drop_path < 1:
            raise ValueError(
                "Swin needs width, head_dim and window >= 1, head_dim that divides width, and 0 <= drop_path < 1;"
                f" received width={self.width}, head_dim={self.head_dim}, window={self.window},"
                f" drop_path={self.drop_path}"
            )
        super().__post_init__()

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        return tuple(FeatureInfo(level, level, self.width * level // 4) for level in (4, 8, 16, 32))

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """The normalised outputs of the stages {4, 8, 16, 32}.

        image is floating [N, H, W, C], any H and W >= 1; features are of `dtype` and have ceil(H / stride) rows: what
        does not fill a patch is padded with zeros.
        """
        x = Patches(self.width, 4, dtype=self.dtype, name="patches")(pad_image(image, 4))
        x = LayerNorm(1e-5, dtype=self.dtype, name="patches_norm")(x)
        features, blocks = {}, 0
        for stage, (info, depth) in enumerate(zip(self.feature_info, self.depths, strict=True), start=1):
            if stage > 1:
                x = LayerNorm(1e-5, dtype=self.dtype, name=f"merge{stage}_norm")(_two_by_two(x))
                x = Dense(info.channels, use_bias=False, dtype=self.dtype, name=f"merge{stage}")(x)
            for i in range(depth):
                x = SwinBlock(
                    self.window,
                    self.head_dim,
                    shift=self.window // 2 * (i % 2),
                    attend=self.attention,
                    drop_path=self.drop_path * blocks / max(sum(self.depths) - 1, 1),
                    dtype=self.dtype,
                    name=f"stage{stage}_{i}",
                )(x, train=train)
                blocks += 1
            features[info.level] = LayerNorm(1e-5, dtype=self.dtype, name=f"norm{stage}")(x)
        return features


class SwinBlock(nn.Module):
    """Attention within windows and an MLP of 4 C hidden units, both as residuals (equation 3).

    Attributes:
      window, head_dim, shift, attend: see `WindowAttention`.
      drop_path: rate of stochastic depth.
      dtype: compute dtype.
    """

    window: int
    head_dim: int
    shift: int = 0
    attend: bool = True
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to the same shape, of `dtype`."""
        y = LayerNorm(1e-5, dtype=self.dtype, name="norm1")(x)
        y = WindowAttention(self.window, self.head_dim, self.shift, self.attend, self.dtype, name="attention")(y)
        x = x + DropPath(self.drop_path)(y, train=train)
        y = LayerNorm(1e-5, dtype=self.dtype, name="norm2")(x)
        y = MLP(4 * x.shape[-1], dtype=self.dtype, name="mlp")(y, train=train)
        return x + DropPath(self.drop_path)(y, train=train)


def _two_by_two(x: jax.Array) -> jax.Array:
    """[N, H, W, C] to [N, ceil(H/2), ceil(W/2), 4 C]: the channels of 2x2 pixels, column by column."""
    x = pad_image(x, 2)
    return jnp.concatenate([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], axis=-1)

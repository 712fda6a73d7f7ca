"""Mix Transformer, the encoder of SegFormer. Xie, Wang, Yu, Anandkumar, Alvarez and Luo, NeurIPS 2021.

arXiv:2105.15203, section 3.1, appendix A and table 6. Compared with SegformerModel of transformers; parameters without
the classifier from B0 to B5: 3,319,392, 13,151,424, 24,196,288, 44,072,128, 60,842,688 and 81,443,008.

Sizes. The patches overlap because the convolutions that make them are padded, so that level s has ceil(H / s) rows
for any H. The convolution that shortens keys and values by R has stride R and no padding, and drops the rows and
columns that are left over, as in the authors' code and in transformers.

Deviations
- Where a side of the features is shorter than R (images below 32 pixels), which the other codes refuse, zeros are
  added to them up to R.
- All normalisations have epsilon 1e-5, as in transformers; the authors have 1e-6 but for those of patches and keys.
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.layers.attention import attention, keep_map, weights
from segjax.models.layers.conv import Conv
from segjax.models.layers.drop_path import DropPath
from segjax.models.layers.patches import Patches
from segjax.models.layers.transformer import Dense, LayerNorm

VARIANTS = {
    # Xie et al. 2021, table 6; the channels of a stage are those of a head, `width`, times its heads.
    "b0": dict(width=32, depths=(2, 2, 2, 2)),
    "b1": dict(width=64, depths=(2, 2, 2, 2)),
    "b2": dict(width=64, depths=(3, 4, 6, 3)),
    "b3": dict(width=64, depths=(3, 4, 18, 3)),
    "b4": dict(width=64, depths=(3, 8, 27, 3)),
    "b5": dict(width=64, depths=(3, 6, 40, 3)),
}

LEVELS = (4, 8, 16, 32)

EPSILON = 1e-5


class MiT(nn.Module):
    """Mix Transformer without its classifier. Needs the "dropout" rng in training where `drop_path` is not 0.

    Attributes:
      dtype: compute dtype.
      width: channels of one head.
      depths: blocks of each of the four stages.
      heads: of each stage, N in table 6.
      reductions: R of each stage, by which rows and columns of keys and values are fewer; the pixels are 64, 16, 4 and
        1 times fewer, which section 3.1 calls R.
      expansion: hidden features of each Mix-FFN, in units of its channels: 4 in the authors' code and weights,
        while table 6 has 8 in the first two stages of B0 to B4.
      drop_path: rate of stochastic depth in the last block; it grows from 0 in the first one, evenly.
      attend: False gives every key the same weight, with the same parameters: queries and keys have no effect, and
        what is left of attention is the mean of the values.
    """

    dtype: Any = jnp.float32
    width: int = 32
    depths: tuple = (2, 2, 2, 2)
    heads: tuple = (1, 2, 5, 8)
    reductions: tuple = (8, 4, 2, 1)
    expansion: int = 4
    drop_path: float = 0.1
    attend: bool = True

    def __post_init__(self):
        for field in ("depths", "heads", "reductions"):
            numbers = tuple(getattr(self, field))
            if len(numbers) != len(LEVELS) or min(numbers) < 1:
                raise ValueError(f"MiT's {field} must be four numbers >= 1; received {numbers}")
        if min(self.width, self.expansion) < 1 or not 0 <= self.drop_path < 1:
            raise ValueError(
                "MiT needs width >= 1, expansion >= 1 and 0 <= drop_path < 1; received"
                f" width={self.width}, expansion={self.expansion}, drop_path={self.drop_path}"
            )
        super().__post_init__()

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        return tuple(
            FeatureInfo(level, level, self.width * heads) for level, heads in zip(LEVELS, self.heads, strict=True)
        )

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """The features of the four stages, {4: ..., 8: ..., 16: ..., 32: ...}, each after a normalisation.

        image is floating [N, H, W, C], any H and W >= 1; features are of `dtype` and have ceil(H / level) rows.
        """
        x = image.astype(self.dtype)
        rates = self._drop_path_rates()
        features = {}
        for stage, info in enumerate(self.feature_info):
            x = self._patches(x, info, stage + 1)
            for i in range(self.depths[stage]):
                x = MixBlock(
                    self.heads[stage],
                    self.reductions[stage],
                    self.expansion,
                    next(rates),
                    self.dtype,
                    self.attend,
                    name=f"stage{stage + 1}_{i}",
                )(x, train=train)
            x = LayerNorm(EPSILON, dtype=self.dtype, name=f"norm{stage + 1}")(x)
            features[info.level] = x
        return features

    def _patches(self, x, info, stage):
        """Section 3.1, overlapped patch merging: K, S and P of table 6 are 7, 4, 3 and then 3, 2, 1."""
        size, stride = (7, 4) if info.level == 4 else (3, 2)
        x = Conv(
            info.channels,
            (size, size),
            strides=(stride, stride),
            padding=size // 2,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=self.dtype,
            name=f"patch{stage}_conv",
        )(x)
        return LayerNorm(EPSILON, dtype=self.dtype, name=f"patch{stage}_norm")(x)

    def _drop_path_rates(self) -> Iterator[float]:
        count = sum(self.depths)
        return (self.drop_path * i / max(count - 1, 1) for i in range(count))


class MixBlock(nn.Module):
    """Efficient self-attention and Mix-FFN (figure 2), each normalised before and added to its input.

    Attributes:
      heads: of attention.
      reduction: R, by which the rows and columns of keys and values are fewer.
      expansion: hidden features of the Mix-FFN, in units of the channels.
      drop_path: rate at which a branch is dropped for a whole example.
      dtype: compute dtype.
      attend: see `MiT`.
    """

    heads: int
    reduction: int
    expansion: int
    drop_path: float
    dtype: Any = jnp.float32
    attend: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to the same shape, of `dtype`."""
        y = LayerNorm(EPSILON, dtype=self.dtype, name="norm1")(x)
        y = EfficientSelfAttention(self.heads, self.reduction, self.dtype, self.attend, name="attention")(y)
        x = x + DropPath(self.drop_path)(y, train=train)
        y = LayerNorm(EPSILON, dtype=self.dtype, name="norm2")(x)
        y = MixFFN(self.expansion, self.dtype, name="ffn")(y)
        return x + DropPath(self.drop_path)(y, train=train)


class EfficientSelfAttention(nn.Module):
    """Attention of every pixel to keys and values on a grid R times as coarse (section 3.1, equations 1 and 2).

    The paper reshapes a patch of pixels into one and multiplies it by a matrix; that is the convolution `reduce`, whose
    normalisation is `norm`.

    Attributes:
      heads, reduction, dtype, attend: see `MixBlock`.
    """

    heads: int
    reduction: int
    dtype: Any = jnp.float32
    attend: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same shape, of `dtype`. Keeps the map `attention`."""
        batch, height, width, channels = x.shape
        coarse = self._reduced(x) if self.reduction > 1 else x

        def project(y, name):
            y = Dense(channels, dtype=self.dtype, name=name)(y)
            return y.reshape(batch, -1, self.heads, channels // self.heads)

        query, key, value = project(x, "query"), project(coarse, "key"), project(coarse, "value")
        scale = query.shape[-1] ** -0.5 if self.attend else 0.0

        def whole_map():
            found = weights(query, key, scale=scale)
            return found.reshape(batch, self.heads, height, width, *coarse.shape[1:3])

        keep_map(self, "attention", whole_map)
        found = attention(query, key, value, scale=scale).reshape(x.shape)
        return Dense(channels, dtype=self.dtype, name="out")(found)

    def _reduced(self, x):
        size = self.reduction
        lacking = [(0, max(size - length, 0)) for length in x.shape[1:3]]
        x = Patches(
            x.shape[-1],
            size,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=self.dtype,
            name="reduce",
        )(jnp.pad(x, ((0, 0), *lacking, (0, 0))))
        return LayerNorm(EPSILON, dtype=self.dtype, name="norm")(x)


class MixFFN(nn.Module):
    """The feed-forward network with a depthwise 3x3 convolution, which tells pixels their places (equation 3).

    Attributes:
      expansion: hidden features, in units of the channels.
      dtype: compute dtype.
    """

    expansion: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to the same shape, of `dtype`."""
        channels = x.shape[-1]
        hidden = self.expansion * channels
        x = Dense(hidden, dtype=self.dtype, name="fc1")(x)
        x = Conv(
            hidden,
            (3, 3),
            padding=1,
            feature_group_count=hidden,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
            dtype=self.dtype,
            name="depthwise",
        )(x)
        return Dense(channels, dtype=self.dtype, name="fc2")(nn.gelu(x, approximate=False))

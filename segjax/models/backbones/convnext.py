"""A ConvNet for the 2020s. Liu, Mao, Wu, Feichtenhofer, Darrell and Xie, CVPR 2022, arXiv:2201.03545.

ConvNeXt, section 2 and table 9: a ResNet with the choices of Swin: patches of 4x4 pixels, 7x7 depthwise convolutions,
inverted bottlenecks, one norm and one activation a block. As a backbone each stage's output is normalised, as in the
authors' segmentation networks. Compared with the ConvNeXt backbone of Hugging Face's transformers.

Deviation: rows and columns that do not fill a patch are padded with zeros, where PyTorch's convolutions leave them
out and an image of less than 32 pixels has no features.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.layers.conv import Conv
from segjax.models.layers.drop_path import DropPath
from segjax.models.layers.pad import pad_image
from segjax.models.layers.patches import Patches
from segjax.models.layers.transformer import KERNEL_INIT, MLP, LayerNorm


class ConvNeXt(nn.Module):
    """ConvNeXt-T. Needs the "dropout" rng in training.

    Attributes:
      dtype: compute dtype.
      width: channels of the first stage: 96 in T and S, 128 in B.
      depths: blocks of each stage.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0 in the first one. 0.1 for T on
        ImageNet-1K (table 5).
      layer_scale: with which each channel of a residual branch starts (Touvron et al. 2021, arXiv:2103.17239).
    """

    dtype: Any = jnp.float32
    width: int = 96
    depths: tuple[int, ...] = (3, 3, 9, 3)
    drop_path: float = 0.1
    layer_scale: float = 1e-6

    def __post_init__(self):
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise ValueError(f"ConvNeXt needs four depths >= 1; received depths={tuple(self.depths)}")
        if self.width < 1 or not 0 <= self.drop_path < 1:
            raise ValueError(
                "ConvNeXt needs width >= 1 and 0 <= drop_path < 1; received"
                f" width={self.width}, drop_path={self.drop_path}"
            )
        super().__post_init__()

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        return tuple(FeatureInfo(level, level, self.width * level // 4) for level in (4, 8, 16, 32))

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """The normalised outputs of the stages {4, 8, 16, 32}.

        image is floating [N, H, W, C], any H and W >= 1; features are of `dtype` and have ceil(H / stride) rows.
        """

        def norm(x, name):
            return LayerNorm(1e-6, dtype=self.dtype, name=name)(x)

        def patches(x, channels, size, name):
            return Patches(channels, size, KERNEL_INIT, self.dtype, name=name)(pad_image(x, size))

        x, features, blocks = image, {}, 0
        for stage, (info, depth) in enumerate(zip(self.feature_info, self.depths, strict=True), start=1):
            if stage == 1:
                x = norm(patches(x, info.channels, 4, "stem"), "stem_norm")
            else:
                x = patches(norm(x, f"down{stage}_norm"), info.channels, 2, f"down{stage}")
            for i in range(depth):
                rate = self.drop_path * blocks / max(sum(self.depths) - 1, 1)
                x = ConvNeXtBlock(rate, self.layer_scale, self.dtype, name=f"stage{stage}_{i}")(x, train=train)
                blocks += 1
            features[info.level] = norm(x, f"norm{stage}")
        return features


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, norm, 1x1 convolution to 4 C channels, GELU, and back, as a residual (figure 4).

    Attributes:
      drop_path: rate of stochastic depth.
      layer_scale: initial value of the parameter `layer_scale`, float32 [C].
      dtype: compute dtype.
    """

    drop_path: float = 0.0
    layer_scale: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to the same shape, of `dtype`."""
        channels = x.shape[-1]
        depthwise = Conv(
            channels,
            (7, 7),
            feature_group_count=channels,
            kernel_init=KERNEL_INIT,
            dtype=self.dtype,
            name="depthwise",
        )
        y = LayerNorm(1e-6, dtype=self.dtype, name="norm")(depthwise(x))
        y = MLP(4 * channels, dtype=self.dtype, name="mlp")(y, train=train)
        scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (channels,), jnp.float32)
        return x + DropPath(self.drop_path)(y * scale.astype(self.dtype), train=train)

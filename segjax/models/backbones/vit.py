"""Vision Transformer. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929.

Section 3.1 and table 1; Ti and S are those of Touvron et al. 2021, "DeiT", arXiv:2012.12877, table 1. Compared with
timm's vit_*_patch16_224, which have, without the classifier, 5,524,416 parameters (Ti), 21,665,664 (S), 85,798,656 (B)
and 303,301,632 (L).

Deviations
- Embeddings of positions are resized bilinearly where the image has another size than `image_size`, as Segmenter's
  authors do (Strudel et al. 2021, arXiv:2105.05633); timm resizes them bicubically with antialiasing.
- Images whose sides are no multiples of the patch are padded with zeros at the bottom and the right.
- The convolution that makes the tokens starts with LeCun's variance, all else as in the authors' code.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.layers.pad import pad_image
from segjax.models.layers.patches import Patches
from segjax.models.layers.transformer import KERNEL_INIT, LayerNorm, TransformerBlock
from segjax.models.layers.upsample import resize_bilinear

VARIANTS = {
    # Touvron et al. 2021, table 1.
    "tiny": dict(width=192, depth=12, heads=3),
    "small": dict(width=384, depth=12, heads=6),
    # Dosovitskiy et al. 2021, table 1.
    "base": dict(width=768, depth=12, heads=12),
    "large": dict(width=1024, depth=24, heads=16),
}


class ViT(nn.Module):
    """ViT without its classifier. Needs the "dropout" rng in training where `drop_path` is not 0.

    Params: `patch_embed`, `cls_token` [1, 1, width], `pos_embed` [1, 1 + (image_size / patch)^2, width], of which the
    first is that of the class token, blocks and `norm`.

    Attributes:
      dtype: compute dtype.
      width: channels of a token.
      depth: blocks.
      heads: of attention.
      patch: rows and columns of the image that make one token.
      expansion: hidden features of each MLP, in units of the width.
      image_size: rows and columns of the images whose positions have embeddings.
      drop_path: rate of stochastic depth in the last block; it grows from 0 in the first one, evenly.
      attend: False gives every key the same weight, with the same parameters.
    """

    dtype: Any = jnp.float32
    width: int = 192
    depth: int = 12
    heads: int = 3
    patch: int = 16
    expansion: int = 4
    image_size: int = 224
    drop_path: float = 0.0
    attend: bool = True

    def __post_init__(self):
        numbers = (self.width, self.depth, self.heads, self.patch, self.expansion)
        if min(numbers) < 1 or self.width % self.heads or not 0 <= self.drop_path < 1:
            raise ValueError(
                "ViT needs width, depth, heads, patch and expansion >= 1, width a multiple of heads and"
                f" 0 <= drop_path < 1; received width={self.width}, depth={self.depth}, heads={self.heads},"
                f" patch={self.patch}, expansion={self.expansion}, drop_path={self.drop_path}"
            )
        if self.image_size < self.patch or self.image_size % self.patch:
            raise ValueError(f"ViT's image_size must be a multiple of {self.patch}; received {self.image_size}")
        super().__post_init__()

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        return (FeatureInfo(self.patch, self.patch, self.width),)

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[int, jax.Array]:
        """{patch: the tokens after the last normalisation, without the class token}.

        image is floating [N, H, W, C], any H and W >= 1; features are of `dtype` and have ceil(H / patch) rows.
        """
        image = pad_image(image, self.patch)
        x = Patches(self.width, self.patch, dtype=self.dtype, name="patch_embed")(image)
        batch, *grid, _ = x.shape
        side = self.image_size // self.patch
        class_token = self.param("cls_token", KERNEL_INIT, (1, 1, self.width), jnp.float32)
        positions = self.param("pos_embed", KERNEL_INIT, (1, 1 + side**2, self.width), jnp.float32)
        of_pixels = resize_bilinear(positions[:, 1:].reshape(1, side, side, self.width), tuple(grid))
        class_token = jnp.broadcast_to(class_token + positions[:, :1], (batch, 1, self.width))
        tokens = (x + of_pixels).reshape(batch, -1, self.width)
        x = jnp.concatenate([class_token, tokens], axis=1).astype(self.dtype)
        for i in range(self.depth):
            rate = self.drop_path * i / max(self.depth - 1, 1)
            x = TransformerBlock(
                self.heads,
                self.expansion * self.width,
                drop_path=rate,
                dtype=self.dtype,
                attend=self.attend,
                name=f"block{i}",
            )(x, tuple(grid), 1, train=train)
        x = LayerNorm(1e-6, dtype=self.dtype, name="norm")(x)
        return {self.patch: x[:, 1:].reshape(batch, *grid, self.width)}

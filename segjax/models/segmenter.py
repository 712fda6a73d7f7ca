"""Segmenter: Transformer for Semantic Segmentation. Strudel, Garcia, Laptev and Schmid, ICCV 2021.

arXiv:2105.05633, section 3 and table 1. A ViT (`backbones/vit.py`) encodes the image. Its tokens are scored by a linear
layer, or by the mask transformer (section 3.2), in which one learnt embedding of each class takes part like a token; a
score is the product of what becomes of the two, brought to length 1, and a token's scores are normalised over the
classes as in the authors' code (github.com/rstrudel/segmenter). Compared with timm's ViT and, for the decoders, with a
network in PyTorch written from the paper.

With 150 classes, the mask transformer and the embeddings of images of 512 pixels it has 6,713,388 parameters on Ti,
26,033,964 on S, 102,497,580 on B and 332,644,652 on L. The table in the authors' README counts the classifier for
ImageNet too, which is never used: 7, 27, 106 and 334 million, where their code makes 6.9, 26.4, 103.3 and (at 640
pixels) 334.3.

Of two classes the normalisation over the classes leaves little more than which score is larger, and hardly a
gradient: give decoder="linear" there.

Deviations: see `backbones/vit.py`. The dropout of the decoder does not apply to the weights of attention. The epsilon
of the encoder's normalisations is 1e-6, with which its weights were trained on ImageNet; the authors go on with 1e-5.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.vit import VARIANTS as ENCODERS
from segjax.models.backbones.vit import ViT
from segjax.models.layers.transformer import KERNEL_INIT, Dense, LayerNorm, TransformerBlock
from segjax.models.layers.upsample import resize_bilinear

VARIANTS = {
    # Strudel et al. 2021, table 1: ViT at patch 16, from weights for images of 384 pixels; with "-linear" the decoder
    # of the baseline.
    f"{name}{ending}": dict(**fields, decoder=decoder)
    for name, fields in ENCODERS.items()
    for ending, decoder in (("", "mask"), ("-linear", "linear"))
}


class Segmenter(nn.Module):
    """Segmenter. Needs the "dropout" rng in training where `dropout` or `drop_path` is not 0.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      width, depth, heads, patch, expansion, image_size, drop_path: of the encoder, see `ViT`.
      decoder: "mask", the mask transformer, or "linear".
      decoder_depth: blocks of the mask transformer, which has the encoder's width, heads and expansion.
      dropout: rate in the mask transformer.
      attention: False gives every key the same weight, with the same parameters, in encoder and decoder.
    """

    num_classes: int
    dtype: Any = jnp.float32
    width: int = 192
    depth: int = 12
    heads: int = 3
    patch: int = 16
    expansion: int = 4
    image_size: int = 384
    drop_path: float = 0.1
    decoder: str = "mask"
    decoder_depth: int = 2
    dropout: float = 0.1
    attention: bool = True

    def __post_init__(self):
        if self.decoder not in ("mask", "linear"):
            raise ValueError(f"Segmenter's decoder must be 'mask' or 'linear'; received {self.decoder!r}")
        if self.decoder_depth < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "Segmenter needs decoder_depth >= 1 and 0 <= dropout < 1; received"
                f" decoder_depth={self.decoder_depth}, dropout={self.dropout}"
            )
        _encoder(self, parent=None)  # which checks its own fields
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes]."""
        height, width = image.shape[1:3]
        x = _encoder(self, name="backbone")(image, train=train)[self.patch]
        if self.decoder == "mask":
            logits = MaskTransformer(
                self.num_classes,
                self.decoder_depth,
                self.heads,
                self.expansion,
                self.dropout,
                self.dtype,
                self.attention,
                name="decoder",
            )(x, train=train)
        else:
            logits = Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)
        padded = tuple(self.patch * rows for rows in x.shape[1:3])
        return resize_bilinear(logits, padded)[:, :height, :width]


def _encoder(model: Segmenter, **options: Any) -> ViT:
    return ViT(
        model.dtype,
        model.width,
        model.depth,
        model.heads,
        model.patch,
        model.expansion,
        model.image_size,
        model.drop_path,
        model.attention,
        **options,
    )


class MaskTransformer(nn.Module):
    """The mask transformer of section 3.2, figure 2 right.

    Params: `proj`, which enters, `class_embed` [1, num_classes, C], blocks, `norm`, the projections `proj_patch` and
    `proj_classes` without bias, and `mask_norm`, over the classes.

    Attributes:
      num_classes: K.
      depth: blocks, M in section 3.2.
      heads, expansion, dropout: of each block.
      dtype: compute dtype; scores, from the projected vectors on, are float32.
      attend: see `ViT`.
    """

    num_classes: int
    depth: int = 2
    heads: int = 3
    expansion: int = 4
    dropout: float = 0.1
    dtype: Any = jnp.float32
    attend: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to float32 [N, H, W, num_classes]."""
        batch, *grid, channels = x.shape
        x = Dense(channels, dtype=self.dtype, name="proj")(x).reshape(batch, -1, channels)
        classes = self.param("class_embed", KERNEL_INIT, (1, self.num_classes, channels), jnp.float32)
        classes = jnp.broadcast_to(classes.astype(self.dtype), (batch, *classes.shape[1:]))
        x = jnp.concatenate([x, classes], axis=1)
        for i in range(self.depth):
            x = TransformerBlock(
                self.heads,
                self.expansion * channels,
                self.dropout,
                epsilon=1e-5,
                dtype=self.dtype,
                attend=self.attend,
                name=f"block{i}",
            )(x, tuple(grid), 0, train=train)
        x = LayerNorm(1e-5, dtype=self.dtype, name="norm")(x)

        def unit(y, name):
            start = nn.initializers.normal(channels**-0.5)
            y = nn.Dense(channels, use_bias=False, kernel_init=start, dtype=self.dtype, name=name)(y)
            y = y.astype(jnp.float32)
            return y * jax.lax.rsqrt(jnp.maximum(jnp.sum(y * y, -1, keepdims=True), 1e-24))

        patches = unit(x[:, : -self.num_classes], "proj_patch")
        classes = unit(x[:, -self.num_classes :], "proj_classes")
        masks = jnp.einsum("nlc,nkc->nlk", patches, classes, precision=jax.lax.Precision.HIGHEST)
        return LayerNorm(1e-5, name="mask_norm")(masks).reshape(batch, *grid, self.num_classes)

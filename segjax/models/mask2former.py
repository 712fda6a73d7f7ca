"""Mask2Former. Cheng, Misra, Schwing, Kirillov and Girdhar, "Masked-attention Mask Transformer for Universal Image
Segmentation", CVPR 2022, arXiv:2112.01527.

Queries become masks and their classes (figure 2). A pixel decoder refines the levels 32, 16 and 8 of a backbone by
deformable attention and gives features at stride 4 (section 4.1); a Transformer decoder lets the queries look at the
three levels in turn (section 3.2.2), each only where its mask was found so far (section 3.2.1); and each mask is the
product of a query with the pixels' features. Semantic scores are made of them as in MaskFormer (Cheng et al. 2021,
arXiv:2107.06278, section 3.4). Compared with Mask2FormerForUniversalSegmentation of Hugging Face's transformers, which
has 44,041,367 parameters on ResNet-50 with 150 classes and 47,439,633 on Swin-T (44M and 47M in table V).

Deviations
- In evaluation the model gives the logarithm of the semantic scores, so that a softmax of it is their share. The masks
  are enlarged to the image before the sigmoid, as in the authors' code; transformers enlarges them to 384x384 and the
  scores afterwards.
- The normalisations of a ResNet are trained; the authors freeze those of ResNet-50.
- Biases start at 0, also where the authors keep PyTorch's small random ones.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.core.softmax import softmax
from segjax.models.backbones import build_backbone
from segjax.models.layers.attention import attention, keep_map, weights
from segjax.models.layers.conv import Conv
from segjax.models.layers.deformable_attention import DeformableAttention
from segjax.models.layers.pad import pad_image
from segjax.models.layers.positions import sine_positions
from segjax.models.layers.transformer import LayerNorm
from segjax.models.layers.upsample import resize_bilinear
from segjax.models.output import MaskOutput

VARIANTS = {
    # Cheng et al. 2022, table V, semantic segmentation of ADE20K: mIoU of 47.2 and 47.8 (49.2 and 50.1 with several
    # scales), then 47.7, 51.3 and, trained on ImageNet-22K and with 640x640 pixels, 53.9 (49.6, 52.4 and 55.1).
    "resnet50": dict(backbone="resnet50"),
    "resnet101": dict(backbone="resnet101"),
    "swin-tiny": dict(backbone="swin_tiny", drop_path=0.3),
    "swin-small": dict(backbone="swin_small", drop_path=0.3),
    "swin-base": dict(backbone="swin_base", window=12, drop_path=0.3),
}

LEVELS = (32, 16, 8)
"""Of the features that the queries look at, in this order."""

GROUPS = 32
"""Of the group normalisations in the pixel decoder."""

EPSILON = 1e-6
"""Added to the semantic scores before their logarithm."""

xavier = nn.initializers.xavier_uniform()
Dense = functools.partial(nn.Dense, kernel_init=xavier)
Embed = functools.partial(nn.Embed, embedding_init=nn.initializers.normal(1.0))
Norm = functools.partial(LayerNorm, epsilon=1e-5)


class Mask2Former(nn.Module):
    """Mask2Former. Needs the "dropout" rng in training where `dropout` or the backbone's `drop_path` is not 0.

    Attributes:
      num_classes: of the segments, without "no object".
      dtype: compute dtype; parameters and logits are float32.
      backbone: one of BACKBONES with features at strides 4, 8, 16 and 32.
      hidden: channels of both decoders, a multiple of 32 and of `heads`.
      queries: segments that an image may have.
      encoder_layers: of the pixel decoder.
      decoder_layers: of the Transformer decoder.
      heads: of all attention in the decoders.
      points: that each head of the pixel decoder looks at on each level.
      encoder_ffn, decoder_ffn: hidden units of the layers' MLPs.
      dropout: rate after attention and in the MLPs.
      attention: False lets each query see the mean of the pixels in its mask, with the same parameters, to see what
        attention to pixels is good for beside the mask. The queries' attention among themselves, the pixel decoder's
        and the backbone's stay.
      width, depths, head_dim, window, drop_path: those of the backbone, if it has them; its own defaults where None.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "resnet50"
    hidden: int = 256
    queries: int = 100
    encoder_layers: int = 6
    decoder_layers: int = 9
    heads: int = 8
    points: int = 4
    encoder_ffn: int = 1024
    decoder_ffn: int = 2048
    dropout: float = 0.0
    attention: bool = True
    width: int | None = None
    depths: tuple | None = None
    head_dim: int | None = None
    window: int | None = None
    drop_path: float | None = None

    def __post_init__(self):
        given = self._backbone_fields()
        own = [field.name for field in dataclasses.fields(build_backbone(self.backbone, parent=None))]
        alien = [name for name in given if name not in own]
        if alien:
            raise ValueError(f"{self.backbone} has no {', '.join(alien)} to be set; received {given}")
        info = build_backbone(self.backbone, parent=None, **given).feature_info
        if not {(level, level) for level in (4, *LEVELS)} <= {(level, stride) for level, stride, _ in info}:
            raise ValueError(
                f"Mask2Former's backbone must have features at strides 4, 8, 16 and 32; received {self.backbone!r}"
            )
        names = "queries encoder_layers decoder_layers heads points encoder_ffn decoder_ffn".split()
        least = {name: getattr(self, name) for name in ("hidden", *names)}
        if min(least.values()) < 1 or self.hidden % GROUPS or self.hidden % self.heads or not 0 <= self.dropout < 1:
            raise ValueError(
                f"Mask2Former needs {', '.join(names)} >= 1, hidden that is a multiple of {GROUPS} and of heads, and"
                f" 0 <= dropout < 1; received {least}, dropout={self.dropout}"
            )
        super().__post_init__()

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array | MaskOutput:
        """image floating [N, H, W, C], any H and W >= 1: in training to `masks`, in evaluation to semantic logits.

        Those are float32 [N, H, W, num_classes], see `semantic_logits`.
        """
        if train:
            return self.masks(image, train=True)
        return semantic_logits(*self._predict(image, train=False)[-1], image.shape[1:3])

    def masks(self, image: jax.Array, *, train: bool = False) -> MaskOutput:
        """The segments of image [N, H, W, C], found before the first layer of the Transformer decoder and after each.

        The mask logits have ceil(H / 4) rows and ceil(W / 4) columns: a pixel of theirs is a square of 4x4.
        """
        rows, columns = (-(-length // 4) for length in image.shape[1:3])
        classes, masks = zip(*self._predict(image, train), strict=True)
        masks = tuple(mask[:, :rows, :columns].transpose(0, 3, 1, 2) for mask in masks)
        return MaskOutput(classes, masks, stride=4)

    @nn.compact
    def _predict(self, image, train):
        """Class logits [N, Q, num_classes + 1] and mask logits [N, h, w, Q] of the padded image, in pairs."""
        features = build_backbone(self.backbone, dtype=self.dtype, name="backbone", **self._backbone_fields())(
            pad_image(image, 32), train=train
        )
        pyramid, mask_features = PixelDecoder(
            self.hidden,
            self.encoder_layers,
            self.heads,
            self.points,
            self.encoder_ffn,
            self.dropout,
            self.dtype,
            name="pixel_decoder",
        )(features, train=train)

        position, queries = (
            Embed(self.queries, self.hidden, dtype=self.dtype, name=name)(jnp.arange(self.queries))
            for name in ("query_positions", "query_features")
        )
        level_embedding = Embed(len(LEVELS), self.hidden, dtype=self.dtype, name="levels")(jnp.arange(len(LEVELS)))
        queries = jnp.broadcast_to(queries, (image.shape[0], *queries.shape))
        predict = Predictor(self.num_classes, self.hidden, self.dtype, name="predictor")
        predictions = [predict(queries, mask_features)]
        for i in range(self.decoder_layers):
            level = i % len(LEVELS)
            queries = DecoderLayer(
                self.heads, self.decoder_ffn, self.dropout, self.attention, self.dtype, name=f"decoder{i}"
            )(queries, position, pyramid[level] + level_embedding[level], predictions[-1][1], train=train)
            predictions.append(predict(queries, mask_features))
        return predictions

    def _backbone_fields(self):
        names = ("width", "depths", "head_dim", "window", "drop_path")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def semantic_logits(classes: jax.Array, masks: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The logarithm of each class's probability times its mask's, summed over queries (MaskFormer, section 3.4).

    class logits [N, Q, num_classes + 1] and mask logits [N, h, w, Q], of squares of 4x4 pixels that cover an image of
    this size, to float32 [N, *size, num_classes] between log(EPSILON) and log(Q + EPSILON).
    """
    masks = resize_bilinear(masks, tuple(4 * length for length in masks.shape[1:3]))[:, : size[0], : size[1]]
    chances = softmax(classes)[..., :-1]
    return jnp.log(jnp.einsum("nqc,nhwq->nhwc", chances, jax.nn.sigmoid(masks)) + EPSILON)


class PixelDecoder(nn.Module):
    """Deformable attention among the levels 32, 16 and 8, then one step of a feature pyramid network (section 4.1).

    Attributes:
      hidden: channels.
      layers: of deformable attention.
      heads, points, ffn, dropout: of these.
      dtype: compute dtype.
    """

    hidden: int
    layers: int
    heads: int
    points: int
    ffn: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: dict[int, jax.Array], *, train: bool) -> tuple[list[jax.Array], jax.Array]:
        """Features by level to those of LEVELS, [N, H', W', hidden] each, and at stride 4 those for the masks."""

        def group_norm(name):
            return nn.GroupNorm(GROUPS, epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name=name)

        def conv(size, name, kernel_init, use_bias=True):
            return Conv(
                self.hidden, (size, size), use_bias=use_bias, kernel_init=kernel_init, dtype=self.dtype, name=name
            )

        sizes = [features[level].shape[1:3] for level in LEVELS]
        levels = Embed(len(LEVELS), self.hidden, name="levels")(jnp.arange(len(LEVELS)))
        pixels, positions = [], []
        for level, size, embedding in zip(LEVELS, sizes, levels, strict=True):
            x = group_norm(f"input{level}_norm")(conv(1, f"input{level}", xavier)(features[level]))
            pixels.append(x.reshape(x.shape[0], -1, self.hidden))
            positions.append((sine_positions(size, self.hidden) + embedding).reshape(-1, self.hidden))
        x = jnp.concatenate(pixels, axis=1)
        position = jnp.concatenate(positions).astype(self.dtype)
        for i in range(self.layers):
            layer = EncoderLayer(self.heads, self.points, self.ffn, self.dropout, self.dtype, name=f"encoder{i}")
            x = layer(x, position, sizes, train=train)

        ends = [sum(h * w for h, w in sizes[:count]) for count in range(1, len(sizes))]
        pyramid = [
            y.reshape(y.shape[0], *size, self.hidden) for y, size in zip(jnp.split(x, ends, axis=1), sizes, strict=True)
        ]
        caffe = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        x = group_norm("lateral4_norm")(conv(1, "lateral4", caffe, use_bias=False)(features[4]))
        x = x + resize_bilinear(pyramid[-1], x.shape[1:3])
        x = nn.relu(group_norm("level4_norm")(conv(3, "level4", caffe, use_bias=False)(x)))
        return pyramid, conv(1, "mask_features", caffe)(x)


class EncoderLayer(nn.Module):
    """Deformable attention and MLP, each normalised after it was added.

    Attributes:
      heads, points: see `DeformableAttention`.
      ffn: hidden units of the MLP.
      dropout: rate after attention and in the MLP.
      dtype: compute dtype.
    """

    heads: int
    points: int
    ffn: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, position: jax.Array, sizes: Sequence[tuple[int, int]], *, train: bool
    ) -> jax.Array:
        """x [N, S, C], the pixels of levels of these sizes, and position [S, C] to [N, S, C] of `dtype`."""
        attend = DeformableAttention(self.heads, self.points, self.dtype, name="attention")
        y = nn.Dropout(self.dropout, deterministic=not train)(attend(x + position, x, sizes))
        x = Norm(dtype=self.dtype, name="attention_norm")(x + y)
        return FeedForward(self.ffn, self.dropout, self.dtype, name="ffn")(x, train=train)


class DecoderLayer(nn.Module):
    """Masked attention to pixels, attention among queries, MLP, each normalised after it was added (section 3.2).

    Attributes:
      heads: of attention.
      ffn: hidden units of the MLP.
      dropout: rate after attention and in the MLP.
      attend: False gives all pixels that a query may see the same weight.
      dtype: compute dtype.
    """

    heads: int
    ffn: int
    dropout: float = 0.0
    attend: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, queries: jax.Array, position: jax.Array, pixels: jax.Array, masks: jax.Array, *, train: bool
    ) -> jax.Array:
        """queries [N, Q, C], position [Q, C], pixels [N, H', W', C], mask logits [N, h, w, Q] to [N, Q, C] of `dtype`.

        Offers the map `pixels` [N, heads, Q, 1, H', W'], the queries being a grid of one column.
        """

        def add(x, y, name):
            return Norm(dtype=self.dtype, name=name)(x + nn.Dropout(self.dropout, deterministic=not train)(y))

        size, channels = pixels.shape[1:3], pixels.shape[-1]
        bias = mask_bias(masks, size)
        key = pixels + jnp.asarray(sine_positions(size, channels), self.dtype)
        key, value = (x.reshape(x.shape[0], -1, channels) for x in (key, pixels))
        cross = MultiHeadAttention(self.heads, self.attend, size, self.dtype, name="cross")
        x = add(queries, cross(queries + position, key, value, bias), "cross_norm")
        among = MultiHeadAttention(self.heads, dtype=self.dtype, name="self")
        x = add(x, among(x + position, x + position, x), "self_norm")
        return FeedForward(self.ffn, self.dropout, self.dtype, name="ffn")(x, train=train)


def mask_bias(masks: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Where a query may look (equation 3): 0 where its mask is at least 1/2, -inf elsewhere.

    If its mask is nowhere it may look everywhere, as in the authors' code.

    mask logits [N, h, w, Q] and the size (H', W') of the pixels to float32 [N, 1, Q, H' W'], without gradient.
    """
    inside = resize_bilinear(jax.lax.stop_gradient(masks), size) >= 0
    inside = inside.reshape(inside.shape[0], -1, inside.shape[-1]).swapaxes(1, 2)
    allowed = inside | ~inside.any(-1, keepdims=True)
    return jnp.where(allowed, 0.0, -jnp.inf)[:, None]


class MultiHeadAttention(nn.Module):
    """Attention with projections `query`, `key`, `value` and `out` (Vaswani et al. 2017, section 3.2.2).

    Attributes:
      heads: each sees C / heads channels.
      attend: False gives all keys that a query may see the same weight.
      grid: where the keys are pixels, their rows and columns; the weights are then offered as the map `pixels`.
      dtype: compute dtype.
    """

    heads: int
    attend: bool = True
    grid: tuple[int, int] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """query [N, Q, C], key and value [N, S, C], bias that fits [N, heads, Q, S], to [N, Q, C] of `dtype`."""
        batch, count, channels = query.shape
        # PyTorch has the three in one matrix, whose outputs count for Xavier's bound.
        third = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")

        def project(x, name):
            x = Dense(channels, dtype=self.dtype, kernel_init=third, name=name)(x)
            return x.reshape(batch, -1, self.heads, channels // self.heads)

        query, key, value = project(query, "query"), project(key, "key"), project(value, "value")
        scale = query.shape[-1] ** -0.5 if self.attend else 0.0
        if self.grid:
            shape = (batch, self.heads, count, 1, *self.grid)
            keep_map(self, "pixels", lambda: weights(query, key, bias, scale=scale).reshape(shape))
        found = attention(query, key, value, bias, scale=scale).reshape(batch, count, channels)
        return Dense(channels, dtype=self.dtype, name="out")(found)


class FeedForward(nn.Module):
    """Two dense layers, `fc1` and `fc2`, with a ReLU between them, added and normalised.

    Attributes:
      hidden: units between the two.
      dropout: rate after each.
      dtype: compute dtype.
    """

    hidden: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[..., C] to the same shape, of `dtype`."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        y = drop(nn.relu(Dense(self.hidden, dtype=self.dtype, name="fc1")(x)))
        y = drop(Dense(x.shape[-1], dtype=self.dtype, name="fc2")(y))
        return Norm(dtype=self.dtype, name="norm")(x + y)


class Predictor(nn.Module):
    """Classes and masks of the queries (MaskFormer, section 3.3): a dense layer; an MLP whose result meets the pixels'.

    Attributes:
      num_classes: without "no object".
      hidden: channels of the pixels' features.
      dtype: compute dtype.
    """

    num_classes: int
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, queries: jax.Array, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """queries [N, Q, C] and pixels [N, h, w, hidden] to float32 logits [N, Q, num_classes + 1] and [N, h, w, Q]."""

        def dense(features, name):
            start = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's own
            return nn.Dense(features, dtype=self.dtype, kernel_init=start, name=name)

        x = Norm(dtype=self.dtype, name="norm")(queries)
        classes = dense(self.num_classes + 1, "classes")(x).astype(jnp.float32)
        for i in (1, 2):
            x = nn.relu(dense(self.hidden, f"mask{i}")(x))
        x = dense(self.hidden, "mask3")(x)
        return classes, jnp.einsum("nqc,nhwc->nhwq", x, pixels, preferred_element_type=jnp.float32)

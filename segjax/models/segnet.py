"""SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation, and Bayesian SegNet.

Badrinarayanan, Kendall and Cipolla, PAMI 2017, arXiv:1511.00561: the decoder upsamples by putting each value where
its window had its maximum in the encoder. Kendall, Badrinarayanan and Cipolla, BMVC 2017, arXiv:1511.02680: the same
network with dropout, which stays on when it predicts (`segjax.evaluation.monte_carlo`; `segjax.predict --samples`).
Compared with the descriptions in the papers and the layers of the authors' Caffe nets
(github.com/alexgkendall/SegNet-Tutorial: segnet_train, segnet_basic_train, bayesian_segnet_train,
bayesian_segnet_basic_train), whose layer names are those of the modules here.

Deviations
- No convolution that is normalised has a bias (section 3.1 says so of SegNet-Basic; the Caffe nets keep one, which
  the normalisation removes).
- The Caffe nets of SegNet-Basic normalise the image locally (LRN; "local contrast normalization" in section 3.2); here
  the image comes normalised by the data set's mean and deviation.
- Weights start as He et al. 2015, as the paper's decoder variants do (section 3.2); its SegNet starts the encoder from
  VGG16 trained on ImageNet. The dropout that section 4 adds for its benchmark is off unless asked for.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones.vgg import CHANNELS, CONVOLUTIONS
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.unpool import max_pool_with_places, max_unpool
from segjax.models.layers.upsample import resize_bilinear


class Form(NamedTuple):
    """A size of the network.

    Attributes:
      convolutions: in each stage of the encoder, and as many in that of the decoder.
      channels: of each stage, in units of `width`.
      kernel: side of each kernel.
      decoder_relu: ReLU in the decoder too.
      head: side of the classifier's kernel; 3 where it takes the place of the first convolution's mirror.
      central: stages with dropout in the "central" arrangement, counted from the deepest.
    """

    convolutions: tuple[int, ...]
    channels: tuple[int, ...]
    kernel: int
    decoder_relu: bool
    head: int
    central: int


FORMS = {
    # PAMI 2017, section 3 and figure 2: the 13 convolutions of VGG16, and 13 with the classifier in the decoder.
    "vgg16": Form(CONVOLUTIONS, CHANNELS, 3, True, 3, 3),
    # Section 3.1: one layer a stage, and no ReLU in the decoder.
    "basic": Form((1, 1, 1, 1), (1, 1, 1, 1), 7, False, 1, 2),
}

DECODERS = ("indices", "bilinear", "addition", "single_channel")
"""What the decoder gets, PAMI 2017, section 3.1: unpooling by the indices as published; bilinear resizing in its place;
SegNet-Basic-EncoderAddition, where the encoder's pooled features of the same size (figure 3) are added to the output of
each decoder but the last, which has none; SegNet-Basic-SingleChannelDecoder, whose filters see their own channel alone.
The paper's Bilinear-Interpolation has no convolutions in the decoder; here the resizing alone differs from SegNet."""

DROPOUT_AT = ("central", "encoder", "decoder", "encoder_decoder", "center", "classifier")
"""Bayesian SegNet, section 4.1: after which units there is dropout; "center" is after the deepest encoder alone."""

VARIANTS = {
    # PAMI 2017. SegNet-Basic has 1.425 M parameters (table 1); of SegNet table 6 gives the size of the file, 117 MB.
    "segnet": dict(form="vgg16", width=64, dropout=0.0),
    "segnet_basic": dict(form="basic", width=64, dropout=0.0),
    # Section 3.1, table 1, where they have 1.425 and 0.625 M parameters.
    "segnet_basic_encoder_addition": dict(form="basic", width=64, dropout=0.0, decoder="addition"),
    "segnet_basic_single_channel_decoder": dict(form="basic", width=64, dropout=0.0, decoder="single_channel"),
    # arXiv:1511.02680: dropout of 0.5 after the central encoders and decoders, the arrangement found best in table 1;
    # how many these are is from bayesian_segnet_train (3 and 3) and bayesian_segnet_basic_train (2 and 2).
    "bayesian_segnet": dict(form="vgg16", width=64, dropout=0.5, dropout_at="central"),
    "bayesian_segnet_basic": dict(form="basic", width=64, dropout=0.5, dropout_at="central"),
    # The other rows of that table, for SegNet-Basic.
    "bayesian_segnet_basic, encoder": dict(form="basic", width=64, dropout=0.5, dropout_at="encoder"),
    "bayesian_segnet_basic, decoder": dict(form="basic", width=64, dropout=0.5, dropout_at="decoder"),
    "bayesian_segnet_basic, encoder_decoder": dict(form="basic", width=64, dropout=0.5, dropout_at="encoder_decoder"),
    "bayesian_segnet_basic, center": dict(form="basic", width=64, dropout=0.5, dropout_at="center"),
    "bayesian_segnet_basic, classifier": dict(form="basic", width=64, dropout=0.5, dropout_at="classifier"),
}


class SegNet(nn.Module):
    """SegNet and SegNet-Basic. Needs the "dropout" rng in training where `dropout` is not 0.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      form: a key of FORMS.
      width: channels of the first stage, 64 as published.
      dropout: rate; 0 is SegNet, 0.5 Bayesian SegNet.
      dropout_at: one of DROPOUT_AT.
      decoder: one of DECODERS; the last two are of the form "basic".
    """

    num_classes: int
    dtype: Any = jnp.float32
    form: str = "vgg16"
    width: int = 64
    dropout: float = 0.0
    dropout_at: str = "central"
    decoder: str = "indices"

    def __post_init__(self):
        for field, allowed in (("form", tuple(FORMS)), ("dropout_at", DROPOUT_AT), ("decoder", DECODERS)):
            if getattr(self, field) not in allowed:
                raise ValueError(f"SegNet's {field} must be in {allowed}; received {getattr(self, field)!r}")
        if self.form != "basic" and self.decoder in ("addition", "single_channel"):
            raise ValueError(
                f"SegNet's decoder={self.decoder!r} needs form='basic', whose stages have equal channels;"
                f" received {self.form!r}"
            )
        if self.width < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"SegNet needs width >= 1 and 0 <= dropout < 1; received width={self.width}, dropout={self.dropout}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        A last odd row or column is pooled by itself, as in Caffe, and cropped again when it is unpooled.
        """
        form = FORMS[self.form]
        channels = [units * self.width for units in form.channels]
        x, pooled = image.astype(self.dtype), []
        for stage, count in enumerate(form.convolutions, start=1):
            for i in range(1, count + 1):
                x = self._convolution(x, channels[stage - 1], self._name(stage, i), nn.relu, train)
            size = x.shape[1:3]
            x, place = max_pool_with_places(x, "CEIL")
            pooled.append((x, place, size))
            x = self._drop(x, "encoder", stage, train)
        for stage, count in reversed(list(enumerate(form.convolutions, start=1))):
            _, place, size = pooled[stage - 1]
            x = _enlarged(x, size) if self.decoder == "bilinear" else max_unpool(x, place, size)
            # The mirror of the encoder's convolutions: each gives as many channels as its counterpart has read.
            # That of the very first one is the classifier in the large form.
            last = 2 if stage == 1 and form.head == 3 else 1
            for i in range(count, last - 1, -1):
                features = channels[stage - 1] if i > 1 else channels[max(stage - 2, 0)]
                activation = nn.relu if form.decoder_relu else None
                groups = features if self.decoder == "single_channel" else 1
                x = self._convolution(x, features, self._name(stage, i, decoder=True), activation, train, groups)
            if self.decoder == "addition" and stage > 1:
                x = x + pooled[stage - 2][0]
            x = self._drop(x, "decoder", stage, train)
        he_normal = nn.initializers.he_normal()
        head = Conv(self.num_classes, (form.head,) * 2, kernel_init=he_normal, dtype=self.dtype, name="head")
        return head(x).astype(jnp.float32)

    def _name(self, stage, i, decoder=False):
        """The layer's name in the authors' nets."""
        if self.form == "basic":
            return f"conv_decode{stage}" if decoder else f"conv{stage}"
        return f"conv{stage}_{i}_D" if decoder else f"conv{stage}_{i}"

    def _convolution(self, x, features, name, activation, train, groups=1):
        kernel = (FORMS[self.form].kernel,) * 2
        return ConvBlock(features, kernel, groups=groups, activation=activation, dtype=self.dtype, name=name)(
            x, train=train
        )

    def _drop(self, x, part, stage, train):
        """Dropout after this unit, if the arrangement has one there."""
        form = FORMS[self.form]
        deepest = len(form.convolutions)
        here = {
            "encoder": part == "encoder",
            "decoder": part == "decoder",
            "encoder_decoder": True,
            "central": stage > deepest - form.central,
            "center": part == "encoder" and stage == deepest,
            "classifier": part == "decoder" and stage == 1,
        }[self.dropout_at]
        return nn.Dropout(self.dropout, deterministic=not train)(x) if here else x


def _enlarged(x, size):
    """Twice as large, and without what hung over the edge when a size was odd."""
    return resize_bilinear(x, (2 * x.shape[1], 2 * x.shape[2]))[:, : size[0], : size[1]]

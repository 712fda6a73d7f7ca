"""Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation. Chen et al., ECCV 2018.

arXiv:1802.02611: DeepLab v3+, a decoder that joins the pyramid of DeepLab v3 with features at stride 4 (section 3.1,
figure 2), on ResNet and Xception-65. On MobileNetV2 it has pyramid and decoder too; Sandler et al. 2018
(arXiv:1801.04381, section 6.3) leave the pyramid out there, and the authors' code also the decoder.

Compared with segmentation_models.pytorch's DeepLabV3Plus, which is another form: VARIANTS names it "smp". The paper's
form is compared with a PyTorch version written from the paper and the authors' TensorFlow code
(github.com/tensorflow/models, research/deeplab), and on Xception-65 has as many parameters as a port of that code.

Deviations
- The authors' code wants sides of 16k + 1 pixels, so that the cells of both resolutions are centred on pixels, from
  corner to corner. Here the image is padded to that with zeros at the bottom and the right, and the logits are
  cropped.
- `separable` is on in VARIANTS; the paper has it on Xception (section 4.3), the authors' code also on the others.
- Features at stride 4 are the last ones of that resolution, also in ResNet and MobileNetV2, where the authors' code
  reads them one or two layers elsewhere because their networks step at other places.
- The running statistics have momentum 0.9 (the authors' code: 0.9997). Weights start as He et al. 2015.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import build_backbone
from segjax.models.deeplab_v3 import backbone_fields
from segjax.models.layers.aspp import ASPP
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.pad import pad_image
from segjax.models.layers.separable import SeparableConvBlock
from segjax.models.layers.upsample import resize_bilinear
from segjax.models.remember import Remember, pass_on

SMP = dict(
    rates=(12, 24, 36),
    dilate_first=True,
    depthwise_norm=False,
    refine=True,
    decoder_convs=1,
    dropout=0.5,
    aligned=False,
)

VARIANTS = {
    # Chen et al. 2018, tables 3 and 5: ResNet-101 and Xception-65, output stride 16 in training, 8 with doubled rates
    # in evaluation; table 1: 48 channels from the backbone; table 2: two 3x3 convolutions of 256 channels.
    "resnet101-os16": dict(backbone="resnet101"),
    "xception65-os16": dict(backbone="xception65"),
    "xception65-os8": dict(backbone="xception65", output_stride=8, rates=(12, 24, 36)),
    # Sandler et al. 2018, section 6.3: the features before the last 1x1 convolution.
    "mobilenet-v2-os16": dict(backbone="mobilenet_v2_320"),
    # segmentation_models.pytorch, DeepLabV3Plus("resnet34") and ("resnet50").
    "smp-resnet34": dict(backbone="resnet34", **SMP),
    "smp-resnet50": dict(backbone="resnet50", **SMP),
    "smp-mobilenet-v2": dict(backbone="mobilenet_v2", **SMP),
}


class DeepLabV3Plus(nn.Module):
    """DeepLab v3+. Needs the "dropout" rng in training where `dropout` is not 0.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      backbone: one of WITH_OUTPUT_STRIDE.
      output_stride: of the features that the pyramid reads: 16 or 8.
      rates: dilations of the pyramid; (6, 12, 18) at output stride 16 and (12, 24, 36) at 8 as published.
      multi_grid, dilate_first: see `DeepLabV3`.
      features: channels of pyramid and decoder, 256 as published.
      skip_features: to how many channels those of stride 4 are reduced, 48 as published.
      separable: depthwise separable 3x3 convolutions in pyramid and decoder (sections 3.1 and 4.3).
      depthwise_norm: normalise and activate between their two parts too, as the authors' code does.
      refine: a 3x3 convolution between pyramid and decoder, as in segmentation_models.pytorch.
      decoder_convs: 3x3 convolutions after the concatenation, 2 as published (table 2).
      dropout: rate after the pyramid; 0.1 in the authors' code.
      aligned: pad to 16k + 1 pixels. Without it to a multiple of the output stride, as in
        segmentation_models.pytorch; interpolation lets corners coincide either way.
      width: of the backbone, in 64ths of the published one.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "xception65"
    output_stride: int = 16
    rates: tuple = (6, 12, 18)
    multi_grid: tuple = ()
    dilate_first: bool = False
    features: int = 256
    skip_features: int = 48
    separable: bool = True
    depthwise_norm: bool = True
    refine: bool = False
    decoder_convs: int = 2
    dropout: float = 0.1
    aligned: bool = True
    width: int = 64

    def __post_init__(self):
        if self.output_stride not in (8, 16):
            raise ValueError(f"DeepLabV3Plus's output_stride must be in (8, 16); received {self.output_stride!r}")
        if not self.rates or min(self.rates) < 1:
            raise ValueError(f"DeepLabV3Plus needs one or more rates >= 1; received {self.rates!r}")
        sizes = ("width", "features", "skip_features", "decoder_convs")
        if min(getattr(self, size) for size in sizes) < 1 or not 0 <= self.dropout < 1:
            received = ", ".join(f"{field}={getattr(self, field)}" for field in (*sizes, "dropout"))
            raise ValueError(f"DeepLabV3Plus needs {', '.join(sizes)} >= 1 and 0 <= dropout < 1; received {received}")
        backbone_fields(self.backbone, self.width, self.multi_grid, self.dilate_first)
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False, remember: Remember = pass_on) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        `remember` is what a recurrent network puts before the decoder, at the output stride and at 4.
        """
        height, width = image.shape[1:3]
        image = pad_image(image, 16, remainder=1) if self.aligned else pad_image(image, self.output_stride)
        fields = backbone_fields(self.backbone, self.width, self.multi_grid, self.dilate_first)
        features = build_backbone(
            self.backbone, dtype=self.dtype, output_stride=self.output_stride, name="backbone", **fields
        )(image, train=train)
        x = ASPP(
            tuple(self.rates),
            self.features,
            separable=self.separable,
            depthwise_norm=self.depthwise_norm,
            dropout=self.dropout,
            dtype=self.dtype,
            name="aspp",
        )(features[32], train=train)
        if self.refine:
            x = self._conv3x3("refine")(x, train=train)
        x, low = remember(self.output_stride, x), remember(4, features[4])
        skip = ConvBlock(self.skip_features, (1, 1), dtype=self.dtype, name="skip")(low, train=train)
        x = resize_bilinear(x, skip.shape[1:3], align_corners=True)
        x = jnp.concatenate([x, skip], axis=-1)
        for i in range(self.decoder_convs):
            x = self._conv3x3(f"decoder_{i}")(x, train=train)
        scores = Conv(self.num_classes, (1, 1), dtype=self.dtype, name="head")(x)
        logits = resize_bilinear(scores.astype(jnp.float32), image.shape[1:3], align_corners=True)
        return logits[:, :height, :width]

    def _conv3x3(self, name):
        if self.separable:
            return SeparableConvBlock(self.features, depthwise_norm=self.depthwise_norm, dtype=self.dtype, name=name)
        return ConvBlock(self.features, dtype=self.dtype, name=name)

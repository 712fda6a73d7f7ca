"""Searching for MobileNetV3: Lite R-ASPP. Howard et al., ICCV 2019, arXiv:1905.02244, section 6.4 and figure 10.

Compared with torchvision's lraspp_mobilenet_v3_large.

Deviations
- As in torchvision the gate's average is that of the whole image; the paper pools windows of 49x49 with strides of
  16 and 20, which come to about the same on Cityscapes' images.
- As in torchvision the last block keeps all its channels (the paper halves them, "RF2" in table 7).
- The 1x1 convolution that scores the deep features runs before they are upsampled, not after: the two commute, and
  there are fewer pixels and then fewer channels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import WITH_OUTPUT_STRIDE, build_backbone
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.upsample import resize_bilinear


class LRASPP(nn.Module):
    """LR-ASPP on a backbone, 3,221,538 parameters with MobileNetV3-Large and 21 classes.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      backbone: one of WITH_OUTPUT_STRIDE.
      output_stride: of the deepest features: 16 as published, 32 or 8.
      filters: channels of the deep branch, 128 as published.
    """

    num_classes: int
    dtype: Any = jnp.float32
    backbone: str = "mobilenet_v3_large"
    output_stride: int = 16
    filters: int = 128

    def __post_init__(self):
        if self.backbone not in WITH_OUTPUT_STRIDE or self.output_stride not in (32, 16, 8) or self.filters < 1:
            raise ValueError(
                f"LRASPP needs a backbone of {', '.join(WITH_OUTPUT_STRIDE)}, output_stride 32, 16 or 8 and"
                f" filters >= 1; received backbone={self.backbone!r}, output_stride={self.output_stride},"
                f" filters={self.filters}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """image floating [N, H, W, C], H and W that the backbone takes, to logits float32 [N, H, W, num_classes]."""
        backbone = build_backbone(self.backbone, dtype=self.dtype, output_stride=self.output_stride, name="backbone")
        features = backbone(image, train=train)
        low, high = features[8], features[32]
        x = ConvBlock(self.filters, (1, 1), dtype=self.dtype, name="project")(high, train=train)
        mean = high.mean((1, 2), keepdims=True, dtype=jnp.float32)
        gate = Conv(self.filters, (1, 1), use_bias=False, dtype=self.dtype, name="gate")(mean)
        x = Conv(self.num_classes, (1, 1), dtype=self.dtype, name="high_head")(x * nn.sigmoid(gate))
        x = resize_bilinear(x.astype(jnp.float32), low.shape[1:3])
        logits = x + Conv(self.num_classes, (1, 1), dtype=self.dtype, name="low_head")(low)
        return resize_bilinear(logits, image.shape[1:3])

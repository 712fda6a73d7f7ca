"""Networks that return features by stride. BACKBONES is the list; `build_backbone` makes one.

A backbone is a linen module. `backbone(image, train=train)` gives `{level: features [N, H', W', C]}`: level is the
stride that the feature map has in the undilated network, so the deepest is 32 whatever the output stride. Convolutional
ones have the levels 2, 4, 8, 16 and 32; with `output_stride` 16 or 8 their last stages keep their resolution and
dilate their convolutions instead (Chen et al. 2017). Those that begin with patches of 4x4 pixels have no level 2.
`backbone.feature_info` says, without running it, the stride and channels of each level.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from segjax.core.config import nearest
from segjax.models.backbones import mit
from segjax.models.backbones.convnext import ConvNeXt
from segjax.models.backbones.densenet import DenseNet121
from segjax.models.backbones.feature_info import FeatureInfo
from segjax.models.backbones.mobilenet_v2 import MobileNetV2
from segjax.models.backbones.mobilenet_v3 import MobileNetV3
from segjax.models.backbones.resnet import ResNet
from segjax.models.backbones.swin import Swin
from segjax.models.backbones.vgg import VGG16
from segjax.models.backbones.xception import Xception65

__all__ = ["BACKBONES", "WITH_OUTPUT_STRIDE", "FeatureInfo", "build_backbone"]

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "convnext_tiny": ConvNeXt,
    "convnext_small": functools.partial(ConvNeXt, depths=(3, 3, 27, 3)),
    "convnext_base": functools.partial(ConvNeXt, depths=(3, 3, 27, 3), width=128),
    "densenet121": DenseNet121,
    **{f"mit_{name}": functools.partial(mit.MiT, **fields) for name, fields in mit.VARIANTS.items()},
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v2_320": functools.partial(MobileNetV2, last_conv=False),
    "mobilenet_v3_large": functools.partial(MobileNetV3, variant="large"),
    "mobilenet_v3_small": functools.partial(MobileNetV3, variant="small"),
    "resnet18": functools.partial(ResNet, depth=18),
    "resnet34": functools.partial(ResNet, depth=34),
    "resnet50": functools.partial(ResNet, depth=50),
    "resnet101": functools.partial(ResNet, depth=101),
    "resnet152": functools.partial(ResNet, depth=152),
    "swin_tiny": Swin,
    "swin_small": functools.partial(Swin, depths=(2, 2, 18, 2)),
    "swin_base": functools.partial(Swin, depths=(2, 2, 18, 2), width=128),
    "vgg16": VGG16,
    "vgg16_bn": functools.partial(VGG16, batch_norm=True),
    "xception65": Xception65,
}

WITH_OUTPUT_STRIDE = tuple(
    name
    for name, backbone in BACKBONES.items()
    if "output_stride" in inspect.signature(getattr(backbone, "func", backbone)).parameters
)
"""Those that can keep the resolution of their last stages."""


def build_backbone(name: str, /, **fields: Any) -> nn.Module:
    """The backbone `BACKBONES[name]`.

    Args:
      name: key of BACKBONES.
      **fields: its own fields: `dtype`, and `output_stride` and `name` where wanted.
    Raises:
      ValueError: an unknown name.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is unknown; {nearest(name, BACKBONES)}")
    return BACKBONES[name](**fields)

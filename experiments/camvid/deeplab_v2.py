"""DeepLab v2 on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Chen et al., "DeepLab", PAMI 2018, section 4.1 and table 4; its own results are on PASCAL VOC, PASCAL-Context,
PASCAL-Person-Part and Cityscapes, with networks that were trained on ImageNet. The losses of the scales count as much
as that of the fused scores.
Command: python -m segjax.train --config experiments/camvid/deeplab_v2.py --workdir DIR
  variants: "half" (240x180 pixels, ASPP-S on ResNet-18 at one scale, sized for two CPU cores) and "full" (480x360,
  ASPP-L on ResNet-101 at three scales, as published, sized for a GPU).
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from segjax.core.config import finish

MODELS = {
    "half": dict(backbone="resnet18", width=32, rates=(2, 4, 8, 12), scales=(1.0,)),
    "full": dict(backbone="resnet101", width=64, rates=(6, 12, 18, 24), scales=(1.0, 0.75, 0.5)),
}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="deeplab_v2", **MODELS[variant or "half"])
    config.loss.auxiliary = 1.0
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

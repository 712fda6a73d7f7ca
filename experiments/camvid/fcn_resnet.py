"""FCN on a dilated ResNet on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, in torchvision's
form; its own results are on PASCAL VOC, NYUDv2 and SIFT Flow, with networks that were trained on ImageNet.
Command: python -m segjax.train --config experiments/camvid/fcn_resnet.py --workdir DIR
  variants: "half" (240x180 pixels, ResNet-18 of half width, sized for two CPU cores) and "full" (480x360, ResNet-50,
  torchvision's fcn_resnet50, sized for a GPU). "full" sees images as torchvision's weights need them, so it can start
  from a ResNet-50 trained on ImageNet: --config.init.path=FILE --config.init.source=torchvision
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from experiments.imagenet import MEAN, STD
from segjax.core.config import finish

MODELS = {
    "half": dict(backbone="resnet18", width=32),
    "full": dict(backbone="resnet50", width=64),
}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="fcn_resnet", output_stride=8, auxiliary=True, dropout=0.1, **MODELS[variant or "half"])
    config.data.mean, config.data.std = MEAN, STD
    config.loss.auxiliary = 0.5
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

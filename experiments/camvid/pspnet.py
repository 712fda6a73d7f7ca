"""PSPNet on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, sections 3 and 5; its own results are on ADE20K, PASCAL
VOC and Cityscapes, with networks that were trained on ImageNet.
Command: python -m segjax.train --config experiments/camvid/pspnet.py --workdir DIR
  variants: "half" (240x180 pixels, ResNet-18 of half width, sized for two CPU cores) and "full" (480x360, ResNet-50
  with the stem of DeepLab, as published, sized for a GPU). "full" sees images as weights trained on ImageNet need
  them, so it can start from timm's resnet50s: --config.init.path=FILE --config.init.source=timm
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from experiments.imagenet import MEAN, STD
from segjax.core.config import finish

MODELS = {
    "half": dict(backbone="resnet18", width=32, channels=128),
    "full": dict(backbone="resnet50", width=64, channels=512),
}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="pspnet", output_stride=8, auxiliary=True, dropout=0.1, **MODELS[variant or "half"])
    config.data.mean, config.data.std = MEAN, STD
    config.loss.auxiliary = 0.4
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

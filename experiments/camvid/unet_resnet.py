"""U-Net on a ResNet on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, with a ResNet as contracting path, as
segmentation_models.pytorch has it. The paper has no result on CamVid.
Command: python -m segjax.train --config experiments/camvid/unet_resnet.py --workdir DIR
  variants: "half" (240x180 pixels, ResNet-18 of half width, sized for two CPU cores) and "full" (480x360, ResNet-34,
  the default of segmentation_models.pytorch, sized for a GPU). "full" sees images as torchvision's weights need them,
  so it can start from a ResNet-34 trained on ImageNet: --config.init.path=FILE --config.init.source=torchvision
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from experiments.imagenet import MEAN, STD
from segjax.core.config import finish

MODELS = {
    "half": dict(backbone="resnet18", width=32),
    "full": dict(backbone="resnet34", width=64),
}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="unet_resnet", decoder_channels=(256, 128, 64, 32, 16), **MODELS[variant or "half"])
    config.data.mean, config.data.std = MEAN, STD
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

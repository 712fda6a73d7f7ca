"""DeepLab v3 on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, sections 3 and 4; its own
results are on PASCAL VOC and Cityscapes, with a ResNet that was trained on ImageNet. The auxiliary head is
torchvision's.
Command: python -m segjax.train --config experiments/camvid/deeplab_v3.py --workdir DIR
  variants: "half" (240x180 pixels, ResNet-18 of half width, half of the rates, sized for two CPU cores) and "full"
  (480x360, ResNet-50 with multi-grid at output stride 16, as published, sized for a GPU).
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from segjax.core.config import finish

MODELS = {
    "half": dict(backbone="resnet18", width=32, output_stride=8, rates=(6, 12, 18), features=64, refine=True),
    "full": dict(
        backbone="resnet50",
        width=64,
        output_stride=16,
        rates=(6, 12, 18),
        features=256,
        refine=False,
        multi_grid=(1, 2, 4),
        dilate_first=True,
    ),
}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="deeplab_v3", dropout=0.1, auxiliary=True, **MODELS[variant or "half"])
    config.loss.auxiliary = 0.5
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

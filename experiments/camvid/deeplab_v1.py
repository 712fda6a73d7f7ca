"""DeepLab-LargeFOV on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs", ICLR 2015,
section 3; its own results are on PASCAL VOC with a VGG16 that was trained on ImageNet. Here VGG16 has batch
normalisation, since it does not train from scratch without.
Command: python -m segjax.train --config experiments/camvid/deeplab_v1.py --workdir DIR
  variants: "half" (240x180 pixels, half of the channels, sized for two CPU cores) and "full" (480x360, as published,
  sized for a GPU).
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from segjax.core.config import finish

MODELS = {
    "half": dict(width=32, fc_channels=512, fc6_dilation=6),
    "full": dict(width=64, fc_channels=1024, fc6_dilation=12),
}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="deeplab_v1", batch_norm=True, dropout=0.5, **MODELS[variant or "half"])
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

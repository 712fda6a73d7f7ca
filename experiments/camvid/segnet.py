"""SegNet on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Badrinarayanan, Kendall, Cipolla, "SegNet", PAMI 2017, section 3; table 3 has 60.1 mIoU, of a network that
starts from VGG16 trained on ImageNet and learns from 3,433 images without class weights. Jegou et al. 2017
(FC-DenseNet) list SegNet with 46.4 on the public ones.
Command: python -m segjax.train --config experiments/camvid/segnet.py --workdir DIR
  variants: "half" (240x180 pixels, half of the channels, sized for two CPU cores) and "full" (480x360, as published,
  sized for a GPU).
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from segjax.core.config import finish

WIDTHS = {"half": 32, "full": 64}
CLASS_WEIGHTS = (0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614)
"""Median frequency balancing (section 3.2), as in the authors' segnet_train.prototxt for these classes."""


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="segnet", form="vgg16", width=WIDTHS[variant or "half"], dropout=0.0, dropout_at="central")
    config.loss.class_weights = CLASS_WEIGHTS
    return finish(config)


__all__ = ["CLASS_WEIGHTS", "VARIANTS", "get_config"]

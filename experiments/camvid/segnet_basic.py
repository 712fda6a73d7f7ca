"""SegNet-Basic on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Badrinarayanan, Kendall, Cipolla, "SegNet", PAMI 2017, section 3.1, with median frequency balancing; table 1
compares its decoder with others on these images.
Command: python -m segjax.train --config experiments/camvid/segnet_basic.py --workdir DIR
  variants: "half" (240x180 pixels, sized for two CPU cores) and "full" (480x360, sized for a GPU).
Time and score: "half" 46 minutes on a busy CPU core, test mIoU 38.5, val 50.2 (README.md); "full" not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from experiments.camvid.segnet import CLASS_WEIGHTS
from segjax.core.config import finish


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="segnet", form="basic", width=64, dropout=0.0, dropout_at="central")
    config.loss.class_weights = CLASS_WEIGHTS
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

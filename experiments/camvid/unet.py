"""U-Net on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, in the form with same padding and BatchNorm. The paper has
no result on CamVid; published scores of other networks that were trained from scratch on these images lie beside
ours in README.md.
Command: python -m segjax.train --config experiments/camvid/unet.py --workdir DIR
  variants: "half" (240x180 pixels, sized for two CPU cores) and "full" (480x360, width 64, sized for a GPU).
Time and score: "half" 63 minutes on two very busy CPU cores, test mIoU 47.2, val 56.8 (README.md); "full" not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from segjax.core.config import finish

WIDTHS = {"half": 24, "full": 64}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    width = WIDTHS[variant or "half"]
    config.model.update(name="unet", padding="same", norm="batch", width=width, depth=4, dropout=0.0)
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

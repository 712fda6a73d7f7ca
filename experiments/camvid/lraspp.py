"""LR-ASPP on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Howard et al., "Searching for MobileNetV3", ICCV 2019, section 6.4; its own results are on Cityscapes, also from
scratch.
Command: python -m segjax.train --config experiments/camvid/lraspp.py --workdir DIR
  variants: "half" (240x180 pixels, MobileNetV3-Small, sized for two CPU cores) and "full" (480x360, -Large, for a GPU).
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from segjax.core.config import finish

MODELS = {
    "half": dict(backbone="mobilenet_v3_small", filters=64),
    "full": dict(backbone="mobilenet_v3_large", filters=128),
}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="lraspp", output_stride=16, **MODELS[variant or "half"])
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

"""DeepLab v3+ on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018,
sections 3 and 4; its own results are on PASCAL VOC and Cityscapes, with networks that were trained on ImageNet.
Command: python -m segjax.train --config experiments/camvid/deeplab_v3plus.py --workdir DIR
  variants: "half" (240x180 pixels, MobileNetV2, half of the rates and of the decoder's channels, sized for two CPU
  cores) and "full" (480x360, Xception-65 at output stride 16, as published, sized for a GPU).
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from segjax.core.config import finish

MODELS = {
    "half": dict(backbone="mobilenet_v2_320", rates=(3, 6, 9), features=128),
    "full": dict(backbone="xception65", rates=(6, 12, 18), features=256),
}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="deeplab_v3plus", output_stride=16, width=64, **MODELS[variant or "half"])
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

"""ReSeg on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Visin et al., "ReSeg: A Recurrent Neural Network-based Model for Semantic Segmentation", CVPR workshops 2016,
sections 3 and 4.3, with median frequency balancing: 58.8 mIoU and 88.7 % of the pixels at 480x360, with a VGG16 that
was trained on ImageNet. Here VGG16 has batch normalisation, since it does not train from scratch without, unless its
weights are given: --config.init.path=vgg16.pth --config.init.source=torchvision --config.model.batch_norm=False
Command: python -m segjax.train --config experiments/camvid/reseg.py --workdir DIR
  variants: "half" (240x180 pixels, half of VGG's channels and milder weights of the classes, sized for two CPU cores)
  and "full" (480x360, as published, sized for a GPU).
Time and score: "half" 55 minutes on a CPU core, val mIoU 66.6, test 54.9 (README.md). "full" not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from experiments.camvid.segnet import CLASS_WEIGHTS
from segjax.core.config import finish

WIDTHS = {"half": 32, "full": 64}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(
        name="reseg",
        width=WIDTHS[variant or "half"],
        hidden=(100, 100),
        patches=(1, 1),
        cell="gru",
        up_features=(50, 50),
        batch_norm=True,
    )
    if variant == "full":
        config.loss.class_weights = CLASS_WEIGHTS
    else:
        config.training.steps = 2400
        config.training.eval_every = 600
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

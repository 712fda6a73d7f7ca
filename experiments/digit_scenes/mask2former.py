"""Mask2Former on the embedded data set, on a narrow ResNet-18: classes, digits as instances, or both.

Paper: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022, section 3.
Command: python -m segjax.train --config experiments/digit_scenes/mask2former.py --workdir DIR
  variants: "classes", "instances" and "panoptic", which is background and digits; these two are also scored by panoptic
  quality and AP.
  instances and panoptic go on from a U-Net-ResNet, whose encoder knows digits (from random weights their classes were
  not learnt in 2000 steps, their masks were):
  python -m segjax.train --config experiments/digit_scenes/unet_resnet.py --workdir runs/digit_scenes_unet_resnet \\
    --config.model.width=24 --config.training.steps=1600 --config.training.eval_every=0
  python -m segjax.train --config experiments/digit_scenes/mask2former.py:panoptic --workdir DIR \\
    --config.training.steps=1500 --config.training.eval_every=0 --config.init.path=runs/digit_scenes_unet_resnet
Time and score, three seeds, one busy CPU core: classes 500 steps in 3 minutes, val mIoU 60.7 +- 1.4; panoptic 1500 in
13, PQ 47.0 +- 0.3, AP 26.0 +- 0.3, mIoU 70.6 +- 0.4; instances 1500 in 11, AP 26.1 +- 0.4, PQ 38.7 +- 0.1. (Instances
have no background, so that their PQ has a class of 0, and their mIoU says little.)
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish

VARIANTS = ("classes", "instances", "panoptic")


def get_config(variant: str = "classes") -> ConfigDict:
    """Variants are those of VARIANTS; "" is "classes"."""
    if variant not in ("", *VARIANTS):
        raise ValueError(f"the variant must be one of {', '.join(VARIANTS)}; received {variant!r}")
    config = digit_scenes_config("")
    config.model.update(
        name="mask2former",
        backbone="resnet18",
        width=24,
        hidden=64,
        queries=32,
        encoder_layers=2,
        decoder_layers=3,
        heads=4,
        points=4,
        encoder_ffn=128,
        decoder_ffn=128,
        dropout=0.0,
        attention=True,
    )
    # Where it goes on from a U-Net-ResNet, config.init.path, it takes the backbone alone.
    config.init.allow_missing = "params/(decoder|levels|pixel_decoder|predictor|query)"
    config.init.allow_unused = "/(up[0-9]+_|head)"
    config.loss.masks.segments = variant or "classes"
    config.loss.masks.instances = 16
    config.loss.masks.points = 1024
    config.evaluation.segments = variant in ("instances", "panoptic")
    return finish(config)

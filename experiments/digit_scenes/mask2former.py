"""Mask2Former on the embedded data set, on a narrow ResNet-18: classes, digits as instances, or both.

Paper: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022, section 3.
Command: python -m segjax.train --config experiments/digit_scenes/mask2former.py --workdir DIR
  variants: "classes", "instances" and "panoptic", which is background and digits; these two are also scored by panoptic
  quality and AP.
Time and score: not run yet.
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

"""Recurrent FCN: FCN-8s with a narrow VGG16 and a ConvGRU before its scores, on clips of moving digits.

Paper: Siam et al., "Convolutional Gated Recurrent Networks for Video Segmentation", ICIP 2017 (RFC-VGG); Valipour et
al., "Recurrent Fully Convolutional Networks for Video Segmentation", WACV 2017. Here with batch normalisation and
skips.
Command: python -m segjax.train --config experiments/digit_clips/rfcn.py --config.init.path=IMAGES --workdir DIR
  where IMAGES is a workdir of experiments/digit_scenes/fcn.py.
  variants: "memory", and "single": the same parameters, each frame by itself.
Time and score: 6 minutes on a busy CPU core, val mIoU 43.8 +- 0.7 over three seeds, from 500 steps of fcn.py.
"""

from ml_collections import ConfigDict

from experiments.digit_clips.common import VARIANTS, digit_clips_config
from segjax.core.config import finish


def get_config(variant: str = "memory") -> ConfigDict:
    """Variants are those of VARIANTS; "" is "memory"."""
    config = digit_clips_config(variant)
    network = ConfigDict(dict(name="fcn", stride=8, width=16, fc_channels=256, batch_norm=True, dropout=0.5))
    config.model.update(cell="convgru", strides=(16, 8), network=network)
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

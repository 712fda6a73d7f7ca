"""A U-Net with a ConvGRU at stride 4 on clips of moving digits.

Paper: Ballas et al., "Delving Deeper into Convolutional Networks for Learning Video Representations", ICLR 2016, for
the cell; Siam et al., "Convolutional Gated Recurrent Networks for Video Segmentation", ICIP 2017, for its place.
Command: python -m segjax.train --config experiments/digit_clips/convgru.py --config.init.path=IMAGES --workdir DIR
  where IMAGES is a workdir of experiments/digit_scenes/unet.py.
  variants: "memory", and "single": the same parameters, each frame by itself.
Time and score: 9 minutes on a busy CPU core, val mIoU 70.1 +- 0.3 over three seeds; "single" 69.5 +- 0.4.
"""

from ml_collections import ConfigDict

from experiments.digit_clips.common import VARIANTS, digit_clips_config
from segjax.core.config import finish


def get_config(variant: str = "memory") -> ConfigDict:
    """Variants are those of VARIANTS; "" is "memory"."""
    config = digit_clips_config(variant)
    network = ConfigDict(dict(name="unet", padding="same", norm="batch", width=24, depth=3, dropout=0.0))
    config.model.update(cell="convgru", strides=(4,), network=network)
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

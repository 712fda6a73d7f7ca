"""A U-Net with a ConvLSTM at stride 4 on clips of moving digits.

Paper: Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting", NIPS 2015,
with peepholes. The paper forecasts frames; here the cell stands between the paths of a segmenter.
Command: python -m segjax.train --config experiments/digit_clips/convlstm.py --config.init.path=IMAGES --workdir DIR
  where IMAGES is a workdir of experiments/digit_scenes/unet.py.
  variants: "memory", and "single": the same parameters, each frame by itself.
Time and score: 9 minutes on a busy CPU core, val mIoU 69.9 +- 0.2 over three seeds.
"""

from ml_collections import ConfigDict

from experiments.digit_clips.common import VARIANTS, digit_clips_config
from segjax.core.config import finish


def get_config(variant: str = "memory") -> ConfigDict:
    """Variants are those of VARIANTS; "" is "memory"."""
    config = digit_clips_config(variant)
    network = ConfigDict(dict(name="unet", padding="same", norm="batch", width=24, depth=3, dropout=0.0))
    config.model.update(cell="convlstm", peepholes=True, strides=(4,), network=network)
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

"""A small Segmenter on the embedded data set, from random weights, with patches of 8 pixels.

Paper: Strudel et al., "Segmenter", ICCV 2021, section 3.
Command: python -m segjax.train --config experiments/digit_scenes/segmenter.py --workdir DIR
Time and score: 500 steps in 3 minutes on one busy CPU core, val mIoU 9.8 +- 0.3 over three seeds.
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    # Too few steps to gain from dropping anything.
    config.model.update(name="segmenter", width=128, depth=6, heads=4, patch=8, image_size=128)
    config.model.update(dropout=0.0, drop_path=0.0)
    return finish(config)

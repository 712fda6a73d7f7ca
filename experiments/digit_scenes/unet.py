"""A small U-Net on the embedded data set: the example that runs everywhere in minutes.

Paper: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, in the form with same padding and BatchNorm.
Command: ./launch.sh train  (or python -m segjax.train --config experiments/digit_scenes/unet.py --workdir DIR)
Time and score: 1.8 minutes on two CPU cores, val mIoU 88.1 (README.md).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="unet", padding="same", norm="batch", width=24, depth=3, dropout=0.0)
    return finish(config)

"""SegNet-Basic on the embedded data set, with 24 instead of 64 channels.

Paper: Badrinarayanan, Kendall, Cipolla, "SegNet", PAMI 2017, section 3.1: four 7x7 convolutions and their mirror.
Command: python -m segjax.train --config experiments/digit_scenes/segnet_basic.py --workdir DIR
Time and score: 1.7 minutes for 500 steps on a CPU core, val mIoU 26.5 ± 0.8 (3 seeds).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="segnet", form="basic", width=24, dropout=0.0, dropout_at="central")
    return finish(config)

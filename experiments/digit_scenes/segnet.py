"""SegNet on the embedded data set, with a quarter of the published channels.

Paper: Badrinarayanan, Kendall, Cipolla, "SegNet", PAMI 2017, section 3: the encoder of VGG16 and its mirror.
Command: python -m segjax.train --config experiments/digit_scenes/segnet.py --workdir DIR
Time and score: 2.5 minutes for 500 steps on a CPU core, val mIoU 12.4 ± 0.8 (3 seeds).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="segnet", form="vgg16", width=16, dropout=0.0, dropout_at="central")
    return finish(config)

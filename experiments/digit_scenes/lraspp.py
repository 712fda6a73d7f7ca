"""LR-ASPP on MobileNetV3-Small on the embedded data set.

Paper: Howard et al., "Searching for MobileNetV3", ICCV 2019, section 6.4: the segmentation head of the paper, there on
Cityscapes, also from scratch.
Command: python -m segjax.train --config experiments/digit_scenes/lraspp.py --workdir DIR
Time and score: 1.4 minutes for 500 steps on a CPU core, val mIoU 9.0 ± 0.5 (3 seeds).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="lraspp", backbone="mobilenet_v3_small", output_stride=16, filters=64)
    return finish(config)

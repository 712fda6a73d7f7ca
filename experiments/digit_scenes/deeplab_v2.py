"""DeepLab v2 on the embedded data set: ASPP-S and three scales on a narrow ResNet-18.

Paper: Chen et al., "DeepLab", PAMI 2018, section 3.2; the losses of the three scales count as much as that
of the fused scores. ASPP-S instead of ASPP-L, since the scenes have 128 pixels instead of 321.
Command: python -m segjax.train --config experiments/digit_scenes/deeplab_v2.py --workdir DIR
Time and score: 3.1 minutes for 500 steps on a CPU core, val mIoU 26.8 ± 4.9 (3 seeds).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="deeplab_v2", backbone="resnet18", width=24, rates=(2, 4, 8, 12), scales=(1.0, 0.75, 0.5))
    config.loss.auxiliary = 1.0
    return finish(config)

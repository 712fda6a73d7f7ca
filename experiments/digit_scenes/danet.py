"""DANet on the embedded data set, on a narrow ResNet-18.

Paper: Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, section 3.
Command: python -m segjax.train --config experiments/digit_scenes/danet.py --workdir DIR
Time and score: 500 steps in 3 minutes on one busy CPU core, val mIoU 27.2 +- 2.7 over three seeds.
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="danet", backbone="resnet18", output_stride=8, channels=64, dropout=0.1, width=24)
    config.loss.auxiliary = 1.0
    return finish(config)

"""PSPNet on the embedded data set: the paper's form on a narrow ResNet-18.

Paper: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, section 3.
Command: python -m segjax.train --config experiments/digit_scenes/pspnet.py --workdir DIR
Time and score: 4.6 minutes for 500 steps on a CPU core, val mIoU 37.3 ± 3.2 (3 seeds).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="pspnet", backbone="resnet18", output_stride=8, channels=128, dropout=0.1, width=32)
    config.loss.auxiliary = 0.4
    return finish(config)

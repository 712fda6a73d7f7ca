"""FCN on the embedded data set: torchvision's form on a narrow ResNet-18.

Paper: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, on a dilated
ResNet with an auxiliary head, as torchvision has it.
Command: python -m segjax.train --config experiments/digit_scenes/fcn_resnet.py --workdir DIR
Time and score: 3.7 minutes for 500 steps on a CPU core, val mIoU 39.7 ± 1.5 (3 seeds).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="fcn_resnet", backbone="resnet18", output_stride=8, auxiliary=True, dropout=0.1, width=32)
    config.loss.auxiliary = 0.5
    return finish(config)

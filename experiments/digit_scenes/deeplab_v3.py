"""DeepLab v3 on the embedded data set: torchvision's form on a narrow ResNet-18.

Paper: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, section 3.3. The rates are a
quarter of the published ones, since the scenes have 128 pixels instead of 513.
Command: python -m segjax.train --config experiments/digit_scenes/deeplab_v3.py --workdir DIR
Time and score: 3.9 minutes for 500 steps on a CPU core, val mIoU 30.8 ± 1.6 (3 seeds).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(
        name="deeplab_v3",
        backbone="resnet18",
        output_stride=8,
        rates=(3, 6, 9),
        features=64,
        dropout=0.1,
        width=32,
    )
    config.loss.auxiliary = 0.5
    return finish(config)

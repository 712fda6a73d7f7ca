"""DeepLab v1 on the embedded data set, with three eighths of the published channels.

Paper: Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs", ICLR 2015,
section 3. fc6 is dilated by 4 instead of 12, since the scenes have 128 pixels instead of 321; with batch
normalisation, since VGG16 does not train from scratch without.
Command: python -m segjax.train --config experiments/digit_scenes/deeplab_v1.py --workdir DIR
Time and score: 4.3 minutes for 500 steps on a CPU core, val mIoU 8.0 ± 0.2 (3 seeds).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="deeplab_v1", width=24, fc_channels=256, fc6_dilation=4, batch_norm=True, dropout=0.1)
    return finish(config)

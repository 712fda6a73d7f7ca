"""DeepLab v3+ on the embedded data set: MobileNetV2, pyramid and decoder with half of the published channels.

Paper: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", ECCV 2018,
section 3. The rates are a third of the published ones, since the scenes have 128 pixels instead of 513.
Command: python -m segjax.train --config experiments/digit_scenes/deeplab_v3plus.py --workdir DIR
Time and score: 3.5 minutes for 500 steps on a CPU core, val mIoU 24.1 ± 0.9 (3 seeds).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(
        name="deeplab_v3plus",
        backbone="mobilenet_v2_320",
        output_stride=16,
        rates=(2, 4, 6),
        features=128,
        width=64,
    )
    return finish(config)

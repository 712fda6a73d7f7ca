"""A small FC-DenseNet on the embedded data set: three levels of four layers.

Paper: Jegou et al., "The One Hundred Layers Tiramisu", CVPR workshops 2017, section 3; its networks have five levels.
Command: python -m segjax.train --config experiments/digit_scenes/fc_densenet.py --workdir DIR
Time and score: 5.4 minutes for 500 steps on a CPU core, val mIoU 30.0 ± 2.7 (3 seeds).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="fc_densenet", layers=(4,) * 7, growth=8, first_features=24, dropout=0.0, remat=False)
    return finish(config)

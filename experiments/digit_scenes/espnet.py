"""ESPNet on the embedded data set, in the paper's form with alpha_3 = 3.

Paper: Mehta et al., "ESPNet", ECCV 2018, section 3.3, figure 4.
Command: python -m segjax.train --config experiments/digit_scenes/espnet.py --workdir DIR
Time and score: 0.8 minutes for 500 steps on a CPU core, val mIoU 12.2 ± 1.0 (3 seeds).
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="espnet", alpha2=2, alpha3=3, decoder=True, void_output=False)
    return finish(config)

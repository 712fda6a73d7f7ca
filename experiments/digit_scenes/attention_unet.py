"""A small Attention U-Net on the embedded data set.

Paper: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018, section 2.1.
Command: python -m segjax.train --config experiments/digit_scenes/attention_unet.py --workdir DIR
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="attention_unet", width=24, depth=3, up="bilinear", attention=True)
    return finish(config)

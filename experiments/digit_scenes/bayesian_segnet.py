"""Bayesian SegNet on the embedded data set: SegNet-Basic with dropout of 0.5 after the central encoders and decoders.

Paper: Kendall, Badrinarayanan, Cipolla, "Bayesian SegNet", arXiv:1511.02680, section 4 and table 1.
Command: python -m segjax.train --config experiments/digit_scenes/bayesian_segnet.py --workdir DIR
  then for label maps with their uncertainty
  python -m segjax.predict --workdir DIR --samples 50 --input IMAGES --output OUT
Time and score: 2.0 minutes for 500 steps on a CPU core, val mIoU 17.1 ± 0.5 (3 seeds).
  (The score is that of one prediction without dropout; the paper's is that of 50 samples.)
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="segnet", form="basic", width=24, dropout=0.5, dropout_at="central")
    return finish(config)

"""CRF-RNN on FCN-8s with a narrow VGG16, end to end on the embedded data set.

Paper: Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015, sections 4 and 5. The
bandwidths are smaller than the paper's, as the scenes of 128x128 pixels are.
Command: python -m segjax.train --config experiments/digit_scenes/crf_rnn.py --workdir DIR
  The paper trains the network alone first: --config.init.path=WORKDIR of experiments/digit_scenes/fcn.py
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.below_crf import below_crf
from experiments.digit_scenes import fcn
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = below_crf(fcn.get_config(variant), bilateral_sigma_xy=20.0, bilateral_sigma_rgb=10.0, spatial_sigma_xy=2.0)
    return finish(config)

"""CRF-RNN on FCN-8s on CamVid, 11 classes, end to end.

Paper: Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015, sections 4 and 5; its own
results are on PASCAL VOC. 5 iterations in training, 10 in evaluation; bandwidths of the authors' Caffe nets.
Command: python -m segjax.train --config experiments/camvid/crf_rnn.py --workdir DIR --config.init.path=FCN
  where FCN is the workdir of experiments/camvid/fcn.py:8s, since the paper trains the network alone first.
Time and score: not run yet. Sized for a GPU.
"""

from ml_collections import ConfigDict

from experiments.below_crf import below_crf
from experiments.camvid import fcn
from segjax.core.config import finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    if variant:
        raise ValueError(f"this experiment has no variants; received {variant!r}")
    config = below_crf(fcn.get_config("8s"), bilateral_sigma_xy=160.0, bilateral_sigma_rgb=3.0, spatial_sigma_xy=3.0)
    # The network is trained already, and the CRF's own parameters learn faster than it, as in the authors' nets.
    config.optimizer.learning_rate = 1e-4
    config.optimizer.rate_factors = ((r"bilateral_weight|spatial_weight|compatibility", 100.0),)
    config.training.steps = 5000
    return finish(config)

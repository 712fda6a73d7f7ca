"""CRF-RNN on FCN-8s on CamVid, 11 classes, end to end.

Paper: Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015, sections 4 and 5; its own
results are on PASCAL VOC. 5 iterations in training, 10 in evaluation.
Command: python -m segjax.train --config experiments/camvid/crf_rnn.py:half --workdir DIR --config.init.path=FCN
  where FCN is the workdir of experiments/camvid/fcn.py with the same variant, since the paper trains the network alone
  first.
  variants: "8s", at full size, sized for a GPU, with the bandwidths of the authors' Caffe nets; "half", on 240x180
  pixels, sized for two CPU cores, with bandwidths and weights that suit FCN-8s's validation images (tune_crf).
Time and score: "half" 17 minutes on a busy CPU core after fcn.py:half: val mIoU 58.9, test 50.1 (README.md). "8s" not
  run yet.
"""

from ml_collections import ConfigDict

from experiments.below_crf import below_crf
from experiments.camvid import fcn
from segjax.core.config import finish

VARIANTS = ("8s", "half")
AUTHORS = dict(bilateral_sigma_xy=160.0, bilateral_sigma_rgb=3.0, spatial_sigma_xy=3.0)
TUNED = dict(
    bilateral_weight=3.0, spatial_weight=1.0, bilateral_sigma_xy=40.0, bilateral_sigma_rgb=10.0, spatial_sigma_xy=1.5
)


def get_config(variant: str = "8s") -> ConfigDict:
    """Variants are those of VARIANTS; "" is "8s"."""
    variant = variant or "8s"
    if variant not in VARIANTS:
        raise ValueError(f"the variant must be one of {', '.join(VARIANTS)}; received {variant!r}")
    config = below_crf(fcn.get_config(variant), **(TUNED if variant == "half" else AUTHORS))
    # The network is trained already, and the CRF's own parameters learn faster than it, as in the authors' nets.
    config.optimizer.rate_factors = ((r"bilateral_weight|spatial_weight|compatibility", 100.0),)
    config.optimizer.learning_rate = 1e-3 if variant == "half" else 1e-4
    config.training.steps = 5000
    if variant == "half":
        # SGD as in the paper: Muon would turn the compatibility, a matrix that starts diagonal, as far as any kernel.
        config.optimizer.name = "sgd"
        config.optimizer.momentum = 0.9
        config.optimizer.weight_decay = 5e-4
        config.optimizer.warmup_steps = 20
        config.training.steps = 300
        config.training.ema_decay = 0.9
        config.training.eval_every = 0
        config.checkpoint.every = 50
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

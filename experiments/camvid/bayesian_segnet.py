"""Bayesian SegNet on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Kendall, Badrinarayanan, Cipolla, "Bayesian SegNet", arXiv:1511.02680, section 4: dropout of 0.5 after the
central encoders and decoders. Jegou et al. 2017 (FC-DenseNet) list it with 63.1 mIoU.
Command: python -m segjax.train --config experiments/camvid/bayesian_segnet.py --workdir DIR
  variants: "half" (SegNet-Basic at 240x180 pixels, sized for two CPU cores) and "full" (SegNet at 480x360, sized for a
  GPU); then for label maps with their uncertainty
  python -m segjax.predict --workdir DIR --samples 50 --input IMAGES --output OUT
Time and score: not run yet. (The score is that of one prediction without dropout; the paper's is that of 50 samples.)
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from experiments.camvid.segnet import CLASS_WEIGHTS
from segjax.core.config import finish

FORMS = {"half": "basic", "full": "vgg16"}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="segnet", form=FORMS[variant or "half"], width=64, dropout=0.5, dropout_at="central")
    config.loss.class_weights = CLASS_WEIGHTS
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

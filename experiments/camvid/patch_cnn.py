"""The patch CNN on CamVid, 11 classes: the centre pixel of a window, for comparison with networks that see more.

Paper: Ciresan, Giusti, Gambardella, Schmidhuber, "Deep Neural Networks Segment Neuronal Membranes in Electron
Microscopy Images", NIPS 2012. The paper has no result on CamVid.
Command: python -m segjax.train --config experiments/camvid/patch_cnn.py --workdir DIR
  variants: "half" (windows of 65x65 at 240x180 pixels, sized for two CPU cores) and "full" (95x95 at 480x360, network
  N4 of the paper, sized for a GPU).
Time and score: not run yet. experiments/isbi2012/README.md shows what the network for whole images saves.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from experiments.camvid.segnet import CLASS_WEIGHTS
from segjax.core.config import finish

MODELS = {
    "half": dict(window=65, kernel_sizes=(4, 4, 3, 3), features=32, hidden=100),
    "full": dict(window=95, kernel_sizes=(4, 5, 4, 4), features=48, hidden=200),
}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    fields = MODELS[variant or "half"]
    config.model.update(name="patch_cnn", **fields)
    # An example is one pixel: a random window of a random image, at its own size.
    config.data.crop_size = (fields["window"],) * 2
    config.data.batch_size = 64 if variant != "full" else 256
    config.data.augment.scale = (1.0, 1.0)
    # The paper draws as many windows of one class as of the other; here the classes are balanced by these weights.
    config.loss.class_weights = CLASS_WEIGHTS
    # Every pixel of an image has `hidden` units, 140 MB at 480x360; and the network continues an image by its mirror
    # image, so it must not be padded with zeros before.
    config.evaluation.batch_size = 2
    config.evaluation.size_multiple = 1
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

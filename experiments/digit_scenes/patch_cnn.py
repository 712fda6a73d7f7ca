"""The patch CNN on the embedded data set: trained on windows of 33x33 pixels, evaluated on whole images.

Paper: Ciresan, Giusti, Gambardella, Schmidhuber, "Deep Neural Networks Segment Neuronal Membranes in Electron
Microscopy Images", NIPS 2012, with a smaller window than the paper's 95x95.
Command: python -m segjax.train --config experiments/digit_scenes/patch_cnn.py --workdir DIR
Time and score: 0.7 minutes for 500 steps on a CPU core, val mIoU 23.6 ± 3.1 (3 seeds).
  experiments/isbi2012/README.md shows what the network for whole images saves.
"""

from ml_collections import ConfigDict

from experiments.digit_scenes.common import digit_scenes_config
from segjax.core.config import finish

WINDOW = 33


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    config = digit_scenes_config(variant)
    config.model.update(name="patch_cnn", window=WINDOW, kernel_sizes=(4, 4, 3), features=32, hidden=100)
    # An example is one pixel: a random window of a random image.
    config.data.crop_size = (WINDOW, WINDOW)
    config.data.batch_size = 64
    # The paper draws as many windows of one class as of the other. Here they come as they are, 83 % of them background,
    # and weigh as much in sum as those of digits.
    config.loss.class_weights = (1.0, *[4.8] * 10)
    # The network continues an image by its mirror image, so it must not be padded with zeros before.
    config.evaluation.size_multiple = 1
    return finish(config)

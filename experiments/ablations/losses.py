"""One network, one budget, different losses: cross-entropy, Dice, focal, Lovász-softmax, OHEM, weights of the classes.

Paper: Milletari et al. 2016 (Dice), Lin et al. 2017 (focal), Berman et al. 2018 (Lovász-softmax), Shrivastava et al.
2016 (OHEM); none of their scores is of this network, so none stands beside the rows.
Command: python -m segjax.ablate --config experiments/ablations/losses.py --workdir DIR
  variants: "small" (U-Net on digit_scenes) and "full" (U-Net on CamVid at 480x360).
Time and score: "small" 24 runs of 2 to 4 minutes on a busy CPU core, experiments/results/ablations/losses.md: no loss
differs significantly from cross-entropy (30.1) over three seeds; Lovász-softmax (48.2) and Dice (49.0) are furthest.
Dice alone dots the background, at a cost of ten points of its IoU. "full" not run yet.

All rows have the learning rate of the base: what is compared is a change of the loss alone, not each loss at its best.
OHEM keeps a sixteenth of the pixels of a batch at least.
"""

from experiments.ablations.common import is_full, short
from experiments.camvid import unet as camvid
from experiments.digit_scenes import unet as digits
from segjax.core.config import finish
from segjax.studies.study import Axis, Study

DIGIT_WEIGHTS = (1.0, *[4.8] * 10)
"""Background is 83 % of the pixels: digits weigh as much in sum."""


def get_study(variant: str = "small") -> Study:
    """Variants are those of VARIANTS in common.py."""
    full = is_full(variant)
    config = camvid.get_config("full") if full else short(digits.get_config())
    weights = tuple(config.loss.class_weights) if full else DIGIT_WEIGHTS
    config.loss.class_weights = ()
    height, width = config.data.crop_size if full else (128, 128)
    config.loss.ohem_min_kept = config.data.batch_size * height * width // 16

    def instead(name):
        return {"loss.cross_entropy": 0.0, f"loss.{name}": 1.0}

    return Study(
        title="Losses",
        paper="Milletari et al. 2016, Lin et al. 2017, Berman et al. 2018, Shrivastava et al. 2016",
        base=finish(config),
        axes=(
            Axis(
                "loss",
                {
                    "cross-entropy": {},
                    "class_weights": {"loss.class_weights": weights},
                    "Dice": instead("dice"),
                    "cross-entropy+Dice": {"loss.dice": 1.0},
                    "focal": instead("focal"),
                    "Lovasz": instead("lovasz_softmax"),
                    "cross-entropy+Lovasz": {"loss.lovasz_softmax": 1.0},
                    "OHEM": instead("ohem_cross_entropy"),
                },
            ),
        ),
        mode="grid",
    )

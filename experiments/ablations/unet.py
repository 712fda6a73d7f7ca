"""What U-Net's parts are good for: skip connections, elastic deformation, the border weight, depth.

Paper: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, which names all of them (sections 2, 3 and 3.1, equation 2) and
has no ablation; Drozdzal et al. 2016, arXiv:1608.04117, take the skip connections away.
Command: python -m segjax.ablate --config experiments/ablations/unet.py --workdir DIR
  variants: "small" (digit_scenes) and "full" (the network of figure 1 on ISBI 2012, for which
  --set data.dir=FOLDER, see experiments/isbi2012/unet.py).
Time and score: "small" 15 runs in 9 minutes on two CPU cores, experiments/results/ablations/unet.md: no difference is
significant over three seeds (without the border weight +9.4 points, interval +1.7 to +17.2 before Holm's correction).
"full" not run yet.
"""

from experiments.ablations.common import is_full, short
from experiments.digit_scenes import unet as digits
from experiments.isbi2012 import unet as isbi
from segjax.core.config import finish
from segjax.studies.study import Axis, Study


def get_study(variant: str = "small") -> Study:
    """Variants are those of VARIANTS in common.py."""
    full = is_full(variant)
    if full:
        config = isbi.get_config("paper")
        config.unlock()
    else:
        config = short(digits.get_config())
        config.data.augment.elastic = 3.0
        config.data.border_weight.w0 = 10.0
        config.data.border_weight.sigma = 3.0
    config.model.skips = True
    depth = config.model.depth
    return Study(
        title="U-Net: skip connections, elastic deformation, border weight, depth",
        paper="Ronneberger et al. 2015, sections 2 and 3",
        base=finish(config),
        axes=(
            Axis("skips", {"skips": {}, "no skips": {"model.skips": False}}),
            Axis("elastic", {"elastic": {}, "no elastic": {"data.augment.elastic": 0.0}}),
            Axis("border weight", {"border weight": {}, "no border weight": {"data.border_weight.w0": 0.0}}),
            Axis("depth", {f"depth {depth}": {}, f"depth {depth - 1}": {"model.depth": depth - 1}}),
        ),
    )

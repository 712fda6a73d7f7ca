"""Whether Attention U-Net's gates gain from telling places apart.

Paper: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018, section 2.1; its scores are
of organs in CT volumes, so none stands beside the rows.
Command: python -m segjax.ablate --config experiments/ablations/attention_unet.py --workdir DIR
  variants: "small" (digit_scenes) and "full" (CamVid at 480x360, width 64).
Time and score: "small" 6 runs of 2 minutes on a busy CPU core, experiments/results/ablations/attention_unet.md: "off"
is 2.2 points below (interval -10.0 to +5.6), not significant; "full" not run yet. experiments/results/digit_scenes.md
has both after 500 steps.

"off" gives each gate's coefficients their mean over the image: the same parameters, at the same cost.
"""

from experiments.ablations.common import is_full, short
from experiments.camvid.common import camvid_config
from experiments.digit_scenes import attention_unet
from segjax.core.config import finish
from segjax.studies.study import Axis, Study


def get_study(variant: str = "small") -> Study:
    """Variants are those of VARIANTS in common.py."""
    if is_full(variant):
        config = camvid_config("full")
        config.model.update(name="attention_unet", width=64, depth=4, up="bilinear", attention=True)
    else:
        config = short(attention_unet.get_config())
    return Study(
        title="Attention U-Net: gates",
        paper="Oktay et al. 2018, section 2.1",
        base=finish(config),
        axes=(Axis("gates", {"on": {}, "off": {"model.attention": False}}),),
        mode="grid",
    )

"""One network, one budget, one augmentation at a time, on CamVid: digits would not survive some of them.

Paper: Cubuk et al. 2020 (RandAugment), Yun et al. 2019 (CutMix), Olsson et al. 2021 (ClassMix), Simard et al. 2003
(elastic deformation); none of their scores is of this network, so none stands beside the rows.
Command: python -m segjax.ablate --config experiments/ablations/augmentations.py --workdir DIR
  variants: "small" (240x180 pixels, width 12, 300 steps of 2 crops) and "full" (480x360, 20,000 steps). CamVid is read
  from --set data.dir=FOLDER or --set data.manual_dir=FOLDER, see segjax/data/sets/camvid.py.
Time and score: "small" 27 runs of 2 minutes on a core, experiments/results/ablations/augmentations.md; in 1.6 epochs
nothing is better than no augmentation, and flip+scale+photometric is 8 points of mIoU worse, significant. What
augmentation is worth shows where a network sees each image often, as in "full", which was not run yet.

Crops at a random place are in all rows, so that all steps have one size.
"""

from experiments.ablations.common import is_full, short
from experiments.camvid import unet
from segjax.core.config import finish
from segjax.studies.study import Axis, Study


def get_study(variant: str = "small") -> Study:
    """Variants are those of VARIANTS in common.py."""
    full = is_full(variant)
    config = unet.get_config("full") if full else short(unet.get_config("half"))
    if not full:
        config.model.width = 12
        config.data.batch_size = 2
    config.data.augment.update(scale=(1.0, 1.0), flip_horizontal=0.0, photometric=0.0)
    return Study(
        title="Augmentation",
        paper="Cubuk et al. 2020, Yun et al. 2019, Olsson et al. 2021, Simard et al. 2003",
        base=finish(config),
        axes=(
            Axis(
                "augmentation",
                {
                    "none": {},
                    "flip": {"data.augment.flip_horizontal": 0.5},
                    "scale": {"data.augment.scale": (0.5, 2.0)},
                    "photometric": {"data.augment.photometric": 1.0},
                    "elastic": {"data.augment.elastic": 8.0 if full else 4.0},
                    "RandAugment": {"data.augment.rand_augment.ops": 2},
                    "CutMix": {"data.augment.mix": "cutmix"},
                    "ClassMix": {"data.augment.mix": "classmix"},
                    "flip+scale+photometric": {
                        "data.augment.flip_horizontal": 0.5,
                        "data.augment.scale": (0.5, 2.0),
                        "data.augment.photometric": 1.0,
                    },
                },
            ),
        ),
        mode="grid",
    )

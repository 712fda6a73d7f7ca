"""How fine FCN's scores are: strides of 32, 16 and 8 pixels.

Paper: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 4.2 and
table 2.
Command: python -m segjax.ablate --config experiments/ablations/fcn_strides.py --workdir DIR
  variants: "small" (a narrow VGG16 on digit_scenes) and "full" (VOC 2012, in the paper's batches of 20, otherwise by
  DeepLab's recipe for VGG16, which has batch normalisation here, so its weights are those of vgg16_bn: --set
  init.path=FILE --set init.source=torchvision).
Time and score: "small" 9 runs in 6 minutes on two CPU cores, experiments/results/ablations/fcn_strides.md: val mIoU
7.5, 17.1 +- 2.9 and 40.2 +- 0.8 over three seeds, each finer one significantly better. "full" not run yet.
"""

from experiments.ablations.common import is_full, short, voc2012_config
from experiments.digit_scenes import fcn
from segjax.core.config import finish
from segjax.studies.study import Axis, Published, Study

SCORES = {"32s": 59.4, "16s": 62.4, "8s": 62.7}


def get_study(variant: str = "small") -> Study:
    """Variants are those of VARIANTS in common.py."""
    if is_full(variant):
        config = voc2012_config()
        config.data.batch_size = 20
        config.optimizer.rate_factors = (("score_", 10.0),)
        config.model.update(name="fcn", stride=32, width=64, fc_channels=4096, batch_norm=True, dropout=0.5)
    else:
        config = short(fcn.get_config())
    protocol = "seg11valid of VOC 2011; VGG16 from ImageNet without batch normalisation, each net goes on from the one"
    protocol += " above; ours are" + (
        " on VOC 2012 val" if is_full(variant) else " on digit_scenes, from random weights"
    )
    return Study(
        title="FCN: stride of the finest scores",
        paper="Long et al. 2015, table 2",
        base=finish(config),
        axes=(Axis("stride", {name: {"model.stride": int(name[:-1])} for name in SCORES}),),
        mode="grid",
        published={name: Published(score, "Long et al. 2015, table 2", protocol) for name, score in SCORES.items()},
        compare=(("16s", "32s"), ("8s", "16s"), ("8s", "32s")),
    )

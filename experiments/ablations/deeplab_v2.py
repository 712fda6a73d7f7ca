"""DeepLab v2 on VGG16: one large field of view, or a pyramid of several; several scales; and what the CRF adds.

Paper: Chen et al., "DeepLab", PAMI 2018, table 3. Several scales of the image (MSC) are in table 4, on ResNet-101
alone, where they bring 68.72 to 71.27; here they have a row on VGG16 without a published number.
Command: python -m segjax.ablate --config experiments/ablations/deeplab_v2.py --workdir DIR
  variants: "small" (digit_scenes, narrow, a third to a half of the rates, VGG16 from a workdir of
  experiments/digit_scenes/fcn.py: --set init.path=WORKDIR) and "full" (VOC 2012, with batch normalisation in VGG16, so
  its weights are those of vgg16_bn: --set init.path=FILE --set init.source=torchvision).
Time and score: "small" 21 runs of 2 minutes on a CPU core, experiments/results/ablations/deeplab_v2.md: the pyramids
are 8.5 to 10 points of mIoU above LargeFOV, which three seeds do not make significant; the CRF, with VOC's parameters,
loses 4 to 7, since it wipes thin digits out. "full" not run yet.

A row with the CRF trains its network anew, to the same weights.
"""

from experiments.ablations.common import FCN_WIDTH, begin_with_backbone, is_full, short, voc2012_config
from experiments.digit_scenes import deeplab_v2
from segjax.core.config import finish
from segjax.studies.study import Axis, Published, Study

# Rates on VOC and on digit_scenes, and the scores before and after the CRF.
HEADS = {
    "LargeFOV": ((12,), (4,), 65.76, 69.84),
    "ASPP-S": ((2, 4, 8, 12), (1, 2, 3, 4), 66.98, 69.73),
    "ASPP-L": ((6, 12, 18, 24), (2, 4, 6, 8), 68.96, 71.57),
}


def get_study(variant: str = "small") -> Study:
    """Variants are those of VARIANTS in common.py."""
    full = is_full(variant)
    config = voc2012_config() if full else short(deeplab_v2.get_config())
    config.model.update(
        name="deeplab_v2",
        backbone="vgg16_bn",
        width=64 if full else FCN_WIDTH,
        fc_channels=1024 if full else 128,
        dropout=0.5 if full else 0.1,
        rates=(12,),
        scales=(1.0,),
    )
    config.loss.auxiliary = 1.0
    if not full:
        begin_with_backbone(config)
    protocol = "VOC 2012 val; VGG16 from ImageNet without batch normalisation"
    protocol += "" if full else "; ours are on digit_scenes, narrow, VGG16 from init.path"
    values, published = {}, {}
    for name, (rates, small_rates, before, after) in HEADS.items():
        network = {"model.rates": rates if full else small_rates}
        values[name] = network
        values[f"{name}+CRF"] = {**network, "evaluation.crf.iterations": 10}
        published[name] = Published(before, "Chen et al. 2018, table 3", protocol)
        published[f"{name}+CRF"] = Published(after, "Chen et al. 2018, table 3", f"{protocol}; CRF tuned on 100 images")
    values["ASPP-L+MSC"] = {**values["ASPP-L"], "model.scales": (1.0, 0.75, 0.5)}
    return Study(
        title="DeepLab v2 on VGG16: pyramid, scales and CRF",
        paper="Chen et al. 2018 (PAMI), table 3",
        base=finish(config),
        axes=(Axis("network", values),),
        mode="grid",
        published=published,
        compare=(
            ("ASPP-S", "LargeFOV"),
            ("ASPP-L", "LargeFOV"),
            *((f"{name}+CRF", name) for name in HEADS),
            ("ASPP-L+MSC", "ASPP-L"),
        ),
    )

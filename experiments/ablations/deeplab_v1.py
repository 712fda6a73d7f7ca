"""DeepLab v1: the field of view of fc6, features of several layers (MSc), and what the CRF adds.

Paper: Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs", ICLR 2015,
tables 1a and 2; scores before the CRF are in table 1 of Chen et al. 2018 (PAMI, DeepLab v2), of the same networks.
Command: python -m segjax.ablate --config experiments/ablations/deeplab_v1.py --workdir DIR
  variants: "small" (digit_scenes, narrow, half of the rates, since the scenes have 128 pixels instead of 321, VGG16
  from a workdir of experiments/digit_scenes/fcn.py: --set init.path=WORKDIR, and the CRF for LargeFOV alone) and "full"
  (VOC 2012, with batch normalisation in VGG16, so its weights are those of vgg16_bn: --set init.path=FILE
  --set init.source=torchvision).
Time and score: "small" 21 runs of a minute on a core, experiments/results/ablations/deeplab_v1.md: 78 % mIoU with MSc,
whose branches see the image itself; without, LargeFOV 13 and a dense 4x4 kernel, whose field of view suits such small
digits, 27, both significant. "full" not run yet.

The networks learn by the later recipe (poly, 20,000 steps), which table 2 of the second paper found 3.63 % better than
the one behind the numbers here. A row with the CRF trains its network anew, to the same weights. The paper adds the
layers of MSc to a trained network and trains them alone; here all is trained from the start.
"""

from experiments.ablations.common import FCN_WIDTH, begin_with_backbone, is_full, short, voc2012_config
from experiments.digit_scenes import deeplab_v1
from segjax.core.config import finish
from segjax.studies.study import Axis, Published, Study

CRF = {"evaluation.crf.iterations": 10}

# Kernel and rate of fc6, channels, those of MSc, and the scores before and after the CRF.
NETWORKS = {
    "LargeFOV": (3, 12, 1024, 0, 62.25, 67.64),
    "LargeFOV+MSc": (3, 12, 1024, 128, 64.21, 68.70),
    "7x7": (7, 4, 4096, 0, 64.38, 67.64),
    "4x4_rate_4": (4, 4, 4096, 0, 59.80, 63.74),
    "4x4_rate_4+MSc": (4, 4, 4096, 128, 61.30, 65.21),
    "4x4_rate_8": (4, 8, 4096, 0, 63.41, 67.14),
}


def get_study(variant: str = "small") -> Study:
    """Variants are those of VARIANTS in common.py."""
    full = is_full(variant)
    config = voc2012_config() if full else short(deeplab_v1.get_config())
    if full:
        config.model.update(name="deeplab_v1", width=64, batch_norm=True, dropout=0.5)
    else:
        config.model.width = FCN_WIDTH
        begin_with_backbone(config)
    config.model.update(fc6_kernel=3, fc6_dilation=12, fc_channels=1024 if full else 128, msc_channels=0)
    values, published = {}, {}
    protocol = (
        "VGG16 from ImageNet without batch normalisation, 6,000 steps by an older recipe, CRF tuned on 100 images"
    )
    for name, (kernel, rate, channels, msc, before, after) in NETWORKS.items():
        network = {"model.fc6_kernel": kernel, "model.fc6_dilation": rate if full else rate // 2}
        if full:
            network["model.fc_channels"] = channels
        if msc:
            network["model.msc_channels"] = msc if full else msc // 4
        values[name] = network
        before_crf = "Chen et al. 2015, table 1a" if msc else "Chen et al. 2018, table 1"
        published[name] = Published(before, before_crf, _ours(protocol, full))
        if full or name == "LargeFOV":
            values[f"{name}+CRF"] = {**network, **CRF}
            after_crf = "Chen et al. 2015, table 1a" if msc else "Chen et al. 2015, table 2"
            published[f"{name}+CRF"] = Published(after, after_crf, _ours(protocol, full))
    return Study(
        title="DeepLab v1: field of view, MSc and CRF",
        paper="Chen et al. 2015, tables 1a and 2",
        base=finish(config),
        axes=(Axis("network", values),),
        mode="grid",
        published=published,
        compare=(
            *((name, "LargeFOV") for name in NETWORKS if name != "LargeFOV"),
            *((name, name.removesuffix("+CRF")) for name in values if name.endswith("+CRF")),
        ),
    )


def _ours(protocol, full):
    return f"VOC 2012 val; {protocol}" + ("" if full else "; ours are on digit_scenes, narrow, VGG16 from init.path")

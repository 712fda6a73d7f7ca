"""DeepLab v3: multi-grid, rates of the pyramid, image-level features, output stride.

Paper: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, tables 5 and 6.
Command: python -m segjax.ablate --config experiments/ablations/deeplab_v3.py --workdir DIR
  variants: "small" (CamVid at 240x180 pixels, ResNet-34 of a quarter of the width from random weights, a third of the
  rates, as its crops of 160 pixels are about a third of the paper's 513; CamVid is read from --set
  data.dir=FOLDER or --set data.manual_dir=FOLDER, see segjax/data/sets/camvid.py) and "full" (VOC 2012, ResNet-101:
  --set init.path=FILE --set init.source=torchvision with ImageNet's weights).
Time and score: "small" 18 runs of 1.7 to 2.5 minutes on a core, experiments/results/ablations/deeplab_v3.md: 28.4 to
33.9 % mIoU, nothing significant, as the deviation over seeds reaches 6.0. "full" was not run yet.

The paper's network of output stride 8 is the one of 16, evaluated at 8; here it is trained at 8.
"""

from experiments.ablations.common import is_full, short, voc2012_config
from experiments.camvid import deeplab_v3
from segjax.core.config import finish
from segjax.studies.study import Axis, Published, Study

SCORES = {
    "MG-1-1-1": 75.36,
    "MG-1-2-1": 75.93,
    "MG-1-2-4": 76.58,
    "MG-1-2-4+rate": 76.46,
    "MG-1-2-4+pooling": 77.21,
    "MG-1-2-4+pooling+OS8": 78.51,
}


def get_study(variant: str = "small") -> Study:
    """Variants are those of VARIANTS in common.py."""
    full = is_full(variant)
    rates, fourth = ((6, 12, 18), 24) if full else ((2, 4, 6), 8)
    config = voc2012_config() if full else short(deeplab_v3.get_config("half"))
    if full:
        # Section 4: crops of 513, batches of 16, 30,000 steps from a rate of 0.007, scales of 0.5 to 2. It gives no
        # weight decay.
        config.data.crop_size = (513, 513)
        config.data.batch_size = 16
        config.data.augment.scale = (0.5, 2.0)
        config.optimizer.learning_rate = 7e-3
        config.optimizer.weight_decay = 1e-4
        config.optimizer.rate_factors = ()
        config.training.steps = 30_000
    else:
        config.loss.auxiliary = 0.0
        config.data.augment.update(scale=(1.0, 1.0), photometric=0.0)
    config.model.update(
        name="deeplab_v3",
        backbone="resnet101" if full else "resnet34",
        width=64 if full else 16,
        features=256 if full else 64,
        output_stride=16,
        rates=rates,
        multi_grid=(1, 1, 1),
        image_pooling=False,
        dilate_first=True,
        refine=False,
        auxiliary=False,
        dropout=0.0,
    )
    last = {"model.multi_grid": (1, 2, 4)}
    pooled = {**last, "model.image_pooling": True}
    values = {
        "MG-1-1-1": {},
        "MG-1-2-1": {"model.multi_grid": (1, 2, 1)},
        "MG-1-2-4": last,
        "MG-1-2-4+rate": {**last, "model.rates": (*rates, fourth)},
        "MG-1-2-4+pooling": pooled,
        "MG-1-2-4+pooling+OS8": {**pooled, "model.output_stride": 8, "model.rates": tuple(2 * rate for rate in rates)},
    }
    protocol = "VOC 2012 val; from ImageNet" + ("" if full else "; ours are on CamVid, narrow, from random weights")
    published = {name: Published(score, "Chen et al. 2017, table 5", protocol) for name, score in SCORES.items()}
    published["MG-1-2-4+pooling+OS8"] = Published(
        SCORES["MG-1-2-4+pooling+OS8"], "Chen et al. 2017, table 6", f"{protocol}; trained at 16, evaluated at 8"
    )
    return Study(
        title="DeepLab v3: multi-grid, pyramid and output stride",
        paper="Chen et al. 2017, tables 5 and 6",
        base=finish(config),
        axes=(Axis("network", values),),
        mode="grid",
        published=published,
        compare=(
            ("MG-1-2-1", "MG-1-1-1"),
            ("MG-1-2-4", "MG-1-1-1"),
            ("MG-1-2-4+rate", "MG-1-2-4"),
            ("MG-1-2-4+pooling", "MG-1-2-4"),
            ("MG-1-2-4+pooling+OS8", "MG-1-2-4+pooling"),
        ),
    )

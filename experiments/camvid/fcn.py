"""FCN-32s, -16s and -8s on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 4; its
own results are on PASCAL VOC with a VGG16 that was trained on ImageNet. SegNet's paper (Badrinarayanan et al. 2017,
table 3) gives FCN 49.83 and FCN with learnt deconvolution 51.96 mIoU on CamVid, by a protocol of its own.
Command: python -m segjax.train --config experiments/camvid/fcn.py:8s --workdir DIR
  variants: "32s", "16s", "8s", at full size, sized for a GPU; "half", an FCN-8s with half of the channels on 240x180
  pixels, sized for two CPU cores.
Time and score: "half" 44 minutes on a CPU core, val mIoU 57.1, test 49.1 (README.md). The others not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import camvid_config
from segjax.core.config import default_config, finish

STRIDES = {"32s": 32, "16s": 16, "8s": 8}
VARIANTS = (*STRIDES, "half")


def get_config(variant: str = "8s") -> ConfigDict:
    """Variants are those of VARIANTS; "" is "8s"."""
    variant = variant or "8s"
    if variant not in VARIANTS:
        raise ValueError(f"the variant must be one of {', '.join(VARIANTS)}; received {variant!r}")
    config = camvid_config("half") if variant == "half" else _full_size()
    # Without ImageNet's weights VGG16 does not train from scratch, so it has batch normalisation here.
    config.model.update(
        name="fcn",
        stride=STRIDES.get(variant, 8),
        width=32 if variant == "half" else 64,
        fc_channels=512 if variant == "half" else 4096,
        batch_norm=True,
        dropout=0.5,
        pool4_scale=1.0,
        pool3_scale=1.0,
        learn_final=False,
    )
    return finish(config)


def _full_size():
    config = default_config()

    config.data.name = "camvid"
    config.data.batch_size = 16
    config.data.crop_size = (352, 352)
    config.data.augment.scale = (0.5, 2.0)
    config.data.augment.flip_horizontal = 0.5

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.schedule = "poly"
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.warmup_steps = 500

    config.training.steps = 20_000
    config.training.eval_every = 2000
    config.checkpoint.every = 1000
    config.evaluation.batch_size = 8
    return config

"""What ready studies share: their two variants, how an experiment is cut short, and the recipe of DeepLab on VOC."""

from ml_collections import ConfigDict

from segjax.core.config import default_config

VARIANTS = ("small", "full")
"""`small`: narrow networks and 300 steps or fewer, for two CPU cores. `full`: the paper's setting, for a GPU."""

SMALL_STEPS = 300


def is_full(variant: str) -> bool:
    """Whether a variant of VARIANTS is "full"; "" is "small"."""
    if variant not in ("", *VARIANTS):
        raise ValueError(f"the variant must be one of {', '.join(VARIANTS)}; received {variant!r}")
    return variant == "full"


def short(config: ConfigDict, steps: int = SMALL_STEPS) -> ConfigDict:
    """An experiment's config, unlocked, for so many steps: two evaluations, and the last checkpoint alone."""
    config.unlock()
    config.training.steps = steps
    config.training.log_every = 25
    config.training.eval_every = steps // 2
    config.checkpoint.every = steps // 2
    config.checkpoint.keep = 1
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, steps // 6)
    return config


FCN_WIDTH = 16
"""Of VGG16 in experiments/digit_scenes/fcn.py."""


def begin_with_backbone(config: ConfigDict) -> None:
    """The backbone may begin as another network's on digit_scenes, where the papers' begins as ImageNet's.

    `--set init.path=WORKDIR` says where that was trained; what is not the backbone starts anew.
    """
    config.init.allow_missing = config.init.allow_unused = r"^\w+/(?!backbone/)"


def voc2012_config() -> ConfigDict:
    """DeepLab's recipe for VGG16 on VOC 2012 (Chen et al. 2018, section 4.1 and table 2), without a model.

    SGD with batches of 10, 20,000 steps, poly with power 0.9, rate 0.001 and 0.01 for the last layer; crops of 321
    pixels. The paper starts from weights of ImageNet, so give them to `segjax.ablate` with `--set init.path=FILE`.
    """
    config = default_config()
    config.data.name = "voc2012"
    config.data.split = "trainaug"
    config.data.batch_size = 10
    config.data.crop_size = (321, 321)
    config.data.augment.flip_horizontal = 0.5

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "poly"
    config.optimizer.poly_power = 0.9
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.rate_factors = (("head", 10.0),)

    config.training.steps = 20_000
    config.training.eval_every = 10_000
    config.checkpoint.every = 2000
    config.evaluation.protocol = "voc2012_val"
    return config

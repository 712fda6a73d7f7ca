"""What all models share on CamVid: the data, the augmentation, and a recipe for each of two sizes of machine."""

import math

from ml_collections import ConfigDict

from segjax.core.config import default_config

VARIANTS = {
    "half": dict(size=(180, 240), crop_size=(160, 160), batch_size=4, steps=1000, rate=4e-3),
    "full": dict(size=(0, 0), crop_size=(320, 320), batch_size=16, steps=20_000, rate=2e-3),
}
"""`half`: 240x180 pixels, for two CPU cores. `full`: 480x360, for a GPU."""

PIXEL_SHARES = (0.168, 0.232, 0.010, 0.318, 0.045, 0.097, 0.012, 0.011, 0.059, 0.006, 0.003)
"""Of each class in the training images, as `./launch.sh inspect` counts them."""


def camvid_config(variant: str) -> ConfigDict:
    """The config without a model. Variants are the keys of VARIANTS; "" is "half"."""
    variant = variant or "half"
    if variant not in VARIANTS:
        raise ValueError(f"the variant must be one of {', '.join(VARIANTS)}; received {variant!r}")
    chosen = VARIANTS[variant]
    config = default_config()

    config.data.name = "camvid"
    config.data.batch_size = chosen["batch_size"]
    config.data.size = chosen["size"]
    config.data.crop_size = chosen["crop_size"]
    config.data.augment.scale = (0.5, 2.0)
    config.data.augment.flip_horizontal = 0.5
    config.data.augment.photometric = 1.0

    # The weights of Paszke et al. 2016 (ENet, section 5.2): 13 times as much for the rarest as for the most frequent.
    config.loss.class_weights = tuple(round(1 / math.log(1.02 + share), 2) for share in PIXEL_SHARES)

    config.optimizer.name = "muon"
    config.optimizer.momentum = 0.95
    config.optimizer.learning_rate = chosen["rate"]
    config.optimizer.schedule = "cosine"
    config.optimizer.b2 = 0.99
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 1e-2
    config.optimizer.clip_norm = 1.0

    config.training.steps = chosen["steps"]
    config.training.ema_decay = 0.99
    config.training.eval_every = chosen["steps"] // 6
    config.checkpoint.every = chosen["steps"] // 12
    config.evaluation.batch_size = 8
    return config

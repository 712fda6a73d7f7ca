"""A small U-Net on the embedded data set: the example that runs everywhere in minutes.

Paper: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, in the form with same padding and BatchNorm.
Command: ./launch.sh train  (or python -m segjax.train --config experiments/digit_scenes/unet.py --workdir DIR)
Time and score: see README.md.
"""

from ml_collections import ConfigDict

from segjax.core.config import default_config, finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    if variant:
        raise ValueError(f"this experiment has no variants; received {variant!r}")
    config = default_config()

    config.data.name = "digit_scenes"
    config.data.batch_size = 16

    config.model.update(name="unet", padding="same", norm="batch", width=16, depth=4, dropout=0.0)

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 1e-3

    config.training.steps = 500
    config.training.log_every = 25
    config.training.eval_every = 250
    config.checkpoint.every = 250
    config.evaluation.batch_size = 16
    return finish(config)

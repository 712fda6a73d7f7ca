"""A small U-Net on the embedded data set: the example that runs everywhere in minutes.

Paper: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, in the form with same padding and BatchNorm.
Command: ./launch.sh train  (or python -m segjax.train --config experiments/digit_scenes/unet.py --workdir DIR)
Time and score: 2.6 minutes on two CPU cores, val mIoU 90.2 (README.md).
"""

from ml_collections import ConfigDict

from segjax.core.config import default_config, finish


def get_config(variant: str = "") -> ConfigDict:
    """The only variant is ""."""
    if variant:
        raise ValueError(f"this experiment has no variants; received {variant!r}")
    config = default_config()

    config.data.name = "digit_scenes"
    config.data.batch_size = 2

    config.model.update(name="unet", padding="same", norm="batch", width=24, depth=3, dropout=0.0)

    # Few steps, so a short memory: Adam's second moment is that of the last 20 steps.
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.b2 = 0.95
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 1e-3

    config.training.steps = 900
    config.training.log_every = 50
    config.training.eval_every = 450
    config.checkpoint.every = 150
    config.evaluation.batch_size = 8
    return finish(config)

"""What all models share on digit_scenes: the data, and one budget, so that their scores can be compared."""

from ml_collections import ConfigDict

from segjax.core.config import default_config


def digit_scenes_config(variant: str) -> ConfigDict:
    """The config without a model. The only variant is ""."""
    if variant:
        raise ValueError(f"this experiment has no variants; received {variant!r}")
    config = default_config()
    config.data.name = "digit_scenes"
    config.data.batch_size = 2

    # Muon learns these scenes in half of AdamW's time. Few steps, so a short memory: the second moment (of the biases
    # and scales) is that of the last 20 steps.
    config.optimizer.name = "muon"
    config.optimizer.momentum = 0.95
    config.optimizer.learning_rate = 4e-3
    config.optimizer.b2 = 0.95
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 1e-3

    config.training.steps = 800
    config.training.log_every = 50
    config.training.eval_every = 400
    config.checkpoint.every = 150
    config.evaluation.batch_size = 8
    return config

"""What all models share on digit_clips: the data, and one budget, so that their scores can be compared.

All go on from the same network trained on single images, as is usual for video networks (Siam et al. 2017, section 4):
`--config.init.path` is a workdir of digit_scenes/unet.py, or for rfcn.py of digit_scenes/fcn.py. The recurrent layers
start anew, with and without memory.
"""

from ml_collections import ConfigDict

from segjax.core.config import default_config

VARIANTS = ("memory", "single")
"""`memory`: the recurrent network. `single`: with the same parameters, each frame by itself."""


def digit_clips_config(variant: str) -> ConfigDict:
    """The config without a model's network. Variants are those of VARIANTS; "" is "memory"."""
    if variant not in ("", *VARIANTS):
        raise ValueError(f"the variant must be one of {', '.join(VARIANTS)}; received {variant!r}")
    config = default_config()
    config.data.name = "digit_clips"
    config.data.batch_size = 2
    config.data.clip.length = 4
    config.model.update(
        name="conv_rnn",
        memory=variant != "single",
        kernel_size=3,
        peepholes=False,
        bidirectional=False,
        labels="all",
        remat=False,
    )

    config.optimizer.name = "muon"
    config.optimizer.momentum = 0.95
    config.optimizer.learning_rate = 2e-3
    config.optimizer.b2 = 0.95
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 1e-3

    config.training.steps = 300
    config.training.log_every = 100
    config.training.eval_every = 0
    config.checkpoint.every = 100
    config.evaluation.batch_size = 4
    return config

"""A U-Net with a ConvGRU at strides 16 and 8 on eight clips in the form of DAVIS 2016: one object, 854x480 pixels.

Paper: Ballas et al. 2016 (the cell), Siam et al. 2017 (its place); J and F of Perazzi et al., "A Benchmark Dataset and
Evaluation Methodology for Video Object Segmentation", CVPR 2016. Six clips are no benchmark: what is compared is the
network with and without memory.
Command: python -m segjax.train --config experiments/davis8/convgru.py --config.data.dir=CLIPS --workdir DIR
  where CLIPS is a folder with images/<clip>/<frame>, masks/<clip>/<frame> and splits/.
  variants: "memory", and "single": the same parameters, each frame by itself.
Time and score: 7 to 12 minutes on a busy CPU core, val mIoU 62.6 +- 1.3 and J&F 26.1 +- 1.6 over three seeds; "single"
  62.4 +- 2.4 and 25.1 +- 2.0.
"""

from ml_collections import ConfigDict

from segjax.core.config import default_config, finish

VARIANTS = ("memory", "single")


def get_config(variant: str = "memory") -> ConfigDict:
    """Variants are those of VARIANTS; "" is "memory"."""
    if variant not in ("", *VARIANTS):
        raise ValueError(f"the variant must be one of {', '.join(VARIANTS)}; received {variant!r}")
    config = default_config()
    config.data.name = "folder"
    config.data.batch_size = 2
    config.data.size = (120, 216)
    config.data.crop_size = (112, 112)
    config.data.clip.length = 6
    config.data.clip.stride = 2
    config.data.clip.hop = 3
    config.data.augment.scale = (0.8, 1.5)
    config.data.augment.flip_horizontal = 0.5
    config.data.augment.photometric = 1.0

    network = ConfigDict(dict(name="unet", padding="same", norm="batch", width=12, depth=4, dropout=0.0))
    config.model.update(name="conv_rnn", cell="convgru", strides=(16, 8), memory=variant != "single", network=network)

    config.optimizer.name = "muon"
    config.optimizer.momentum = 0.95
    config.optimizer.learning_rate = 2e-3
    config.optimizer.b2 = 0.95
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 30
    config.optimizer.weight_decay = 1e-2

    config.training.steps = 250
    config.training.eval_every = 0
    config.checkpoint.every = 100
    config.evaluation.batch_size = 2
    config.evaluation.davis = True
    return finish(config)

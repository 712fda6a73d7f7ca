"""U-Net on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, in the form with same padding and BatchNorm. The paper has
no result on CamVid; published scores of other networks that were trained from scratch on these images lie beside
ours in README.md.
Command: python -m segjax.train --config experiments/camvid/unet.py --workdir DIR
  variants: "half" (240x180 pixels, sized for two CPU cores) and "full" (480x360, width 64, sized for a GPU).
Time and score: "half" 27 minutes on two busy CPU cores, test mIoU 36.0 (README.md); "full" not run yet.
"""

from ml_collections import ConfigDict

from segjax.core.config import default_config, finish

VARIANTS = {
    "half": dict(size=(180, 240), crop_size=(160, 160), batch_size=4, width=24, steps=1500, rate=2e-3),
    "full": dict(size=(0, 0), crop_size=(320, 320), batch_size=16, width=64, steps=20_000, rate=1e-3),
}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
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

    config.model.update(name="unet", padding="same", norm="batch", width=chosen["width"], depth=4, dropout=0.0)

    config.loss.cross_entropy = 1.0

    config.optimizer.name = "adamw"
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
    return finish(config)

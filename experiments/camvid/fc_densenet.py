"""FC-DenseNet56 on CamVid, 11 classes, from scratch on the public 367 training images.

Paper: Jegou et al., "The One Hundred Layers Tiramisu", CVPR workshops 2017, section 4.1 and table 3: 58.9 mIoU.
Command: python -m segjax.train --config experiments/camvid/fc_densenet.py:half --workdir DIR
  variants: "half" (240x180 pixels, four levels of half growth, sized for two CPU cores, the recipe of the other
  networks here) and "full" (480x360, FC-DenseNet56, the paper's recipe, for a GPU). To end with the paper's
  fine-tuning on whole images:
  python -m segjax.train --config experiments/camvid/fc_densenet.py:full --workdir DIR2 --config.init.path=DIR
    --config.data.crop_size='(0, 0)' --config.optimizer.learning_rate=1e-4 --config.training.steps=10000
What differs from the paper in "full": Adam without its first moment instead of RMSprop, which differs in the first
steps and in where epsilon stands; the rate falls by a cosine instead of by 0.5 % an epoch; a fixed number of steps (200
passes over the images) instead of stopping when the validation score has not risen for 100 epochs; running statistics
of the normalisation in evaluation instead of the batch's.
Time and score: "half" 41 minutes on a busy CPU core, test mIoU 40.8, val 49.4 (README.md); "full" not run yet.
"""

from ml_collections import ConfigDict

from experiments.camvid.common import VARIANTS, camvid_config
from segjax.core.config import finish

MODELS = {
    "half": dict(layers=(4,) * 9, growth=6, first_features=24, dropout=0.0, remat=False),
    "full": dict(layers=(4,) * 11, growth=12, first_features=48, dropout=0.2, remat=False),
}


def get_config(variant: str = "half") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "half"."""
    config = camvid_config(variant)
    config.model.update(name="fc_densenet", **MODELS[variant or "half"])
    if variant == "full":
        config.data.batch_size = 3
        config.data.crop_size = (224, 224)
        config.data.augment.scale = (1.0, 1.0)
        config.data.augment.photometric = 0.0
        config.loss.class_weights = ()
        config.optimizer.update(
            # The authors' loss has 1e-4 times the sum of the squared weights, whose gradient has the factor 2.
            name="adam",
            learning_rate=1e-3,
            momentum=0.0,
            b2=0.9,
            weight_decay=2e-4,
            clip_norm=0.0,
        )
        config.training.ema_decay = 0.0
        config.training.update(steps=24_000, eval_every=2000)
        config.checkpoint.every = 1000
    return finish(config)


__all__ = ["VARIANTS", "get_config"]

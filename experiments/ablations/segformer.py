"""Whether SegFormer gains from its attention: softmax weights, or every key alike.

Paper: Xie et al., "SegFormer", NeurIPS 2021, section 3.1; B0 has 37.4 mIoU on ADE20K.
Command: python -m segjax.ablate --config experiments/ablations/segformer.py --workdir DIR
  variants: "small" (B0 on digit_scenes, from random weights) and "full" (B0 on ADE20K by the paper's recipe; its
  encoder starts from ImageNet: --set init.path=FILE --set init.source=transformers).
Time and score: "small" 6 runs of 3 minutes on a busy CPU core, experiments/results/ablations/segformer.md: "off" is 0.2
points below (interval -1.9 to +1.4), not significant. "full" not run yet.

"off" has the same parameters; its depthwise convolutions still mix places.
"""

from experiments.ablations.common import is_full, short
from experiments.digit_scenes import segformer
from segjax.core.config import default_config, finish
from segjax.studies.study import Axis, Published, Study


def get_study(variant: str = "small") -> Study:
    """Variants are those of VARIANTS in common.py."""
    full = is_full(variant)
    protocol = "ADE20K val, one scale, encoder from ImageNet"
    protocol += "" if full else "; ours are on digit_scenes, from random weights"
    return Study(
        title="SegFormer-B0: attention",
        paper="Xie et al. 2021, section 3.1",
        base=finish(_ade20k() if full else short(segformer.get_config())),
        axes=(Axis("attention", {"on": {}, "off": {"model.attention": False}}),),
        mode="grid",
        published={"on": Published(37.4, "Xie et al. 2021", protocol)},
    )


def _ade20k():
    """Section 4.1: batches of 16, 160,000 steps, AdamW from 6e-5, poly with power 1, crops of 512, scales 0.5 to 2."""
    config = default_config()
    config.data.name = "ade20k"
    config.data.batch_size = 16
    config.data.crop_size = (512, 512)
    config.data.augment.scale = (0.5, 2.0)
    config.data.augment.flip_horizontal = 0.5
    config.data.augment.photometric = 1.0
    config.model.update(name="segformer", width=32, channels=256, dropout=0.1, drop_path=0.1, attention=True)
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 6e-5
    config.optimizer.schedule = "poly"
    config.optimizer.poly_power = 1.0
    config.optimizer.warmup_steps = 1500
    config.optimizer.weight_decay = 0.01
    config.optimizer.rate_factors = (("^(linear|head)", 10.0),)
    config.training.steps = 160_000
    config.training.eval_every = 40_000
    config.checkpoint.every = 8000
    config.evaluation.protocol = "ade20k_val_ss"
    return config

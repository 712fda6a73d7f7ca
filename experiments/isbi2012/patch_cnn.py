"""The patch CNN on the data that it was made for: neuronal membranes in electron microscopy, ISBI 2012.

Paper: Ciresan, Giusti, Gambardella, Schmidhuber, "Deep Neural Networks Segment Neuronal Membranes in Electron
Microscopy Images", NIPS 2012, table 1 (network N4). Its scores are by the organisers' hidden labels of another stack
(warping, rand and pixel error, as U-Net's paper cites them: 0.000420, 0.0504, 0.0613), and an average of several
networks; ours are of a split of the 30 public slices, another protocol.
Command: python -m segjax.train --config experiments/isbi2012/patch_cnn.py:small --config.data.dir=$SEGJAX_DATA/isbi2012
  --workdir DIR
  variants: "small" (windows of 33x33, sized for two CPU cores) and "n4" (95x95, as published, sized for a GPU).
  The folder holds images/, masks/ (0 cell, 1 membrane), splits/ and classes.txt.
Time and score: not run yet. experiments/isbi2012/README.md shows what the network for whole images saves.
"""

from ml_collections import ConfigDict

from segjax.core.config import default_config, finish

VARIANTS = {
    "small": dict(
        model=dict(window=33, kernel_sizes=(4, 4, 3), features=32, hidden=100), batch_size=64, steps=3000, rate=1e-3
    ),
    "n4": dict(
        model=dict(window=95, kernel_sizes=(4, 5, 4, 4), features=48, hidden=200),
        batch_size=256,
        steps=20_000,
        rate=1e-3,
    ),
}


def get_config(variant: str = "small") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "small"."""
    variant = variant or "small"
    if variant not in VARIANTS:
        raise ValueError(f"the variant must be one of {', '.join(VARIANTS)}; received {variant!r}")
    chosen = VARIANTS[variant]
    config = default_config()
    config.model.update(name="patch_cnn", **chosen["model"])

    # An example is one pixel: a random window that lies in a random slice. (The paper's may reach out of it.)
    config.data.name = "folder"
    config.data.crop_size = (chosen["model"]["window"],) * 2
    config.data.batch_size = chosen["batch_size"]
    # The paper mirrors and turns its windows at random.
    config.data.augment.flip_horizontal = 0.5
    config.data.augment.flip_vertical = 0.5

    # The paper draws as many windows of membranes as of others. Here they come as they are, 22 % of them membranes, and
    # weigh as much in sum as the others.
    config.loss.class_weights = (1.0, 3.5)

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = chosen["rate"]
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 1e-3

    config.training.steps = chosen["steps"]
    config.training.eval_every = chosen["steps"] // 4
    config.checkpoint.every = chosen["steps"] // 4
    # A whole slice has 512x512 pixels of 200 hidden units: 210 MB a slice.
    config.evaluation.batch_size = 1
    # The network continues an image by its mirror image, so it must not be padded with zeros before.
    config.evaluation.size_multiple = 1
    return finish(config)

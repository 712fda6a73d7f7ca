"""U-Net by its own recipe on ISBI 2012 EM: neuronal membranes in electron microscopy, 2 classes, 512x512 grey slices.

Paper: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, arXiv:1505.04597, section 3 and table 1: warping, Rand and
pixel error 0.000353, 0.0382 and 0.0611 on the labels that the organisers keep hidden. The split of the 30 public
slices (24 to train, 6 to validate) and mIoU are another protocol, whose scores cannot be compared with those.
Command: python -m segjax.train --config experiments/isbi2012/unet.py --config.data.dir=$SEGJAX_DATA/isbi2012 \\
    --workdir DIR
  variants: "small" (sized for two CPU cores) and "paper" (the network of figure 1, sized for a GPU).
Time and score: not run yet.

What the paper states: the unpadded network, SGD with momentum 0.99 on batches of one large tile (section 3); the
border weight with w0 = 10, sigma = 5 beside balanced classes (eq. 2); elastic deformation of 10 pixels, rotation and
grey values (section 3.1); tiles whose missing context is mirrored (figure 2).

What it leaves open or is otherwise here: it gives no learning rate, number of steps, dropout rate or range of
rotation and grey values. The loss is divided by the sum of the weights (`segjax.training.losses`); the paper's is a
sum. What rotation and deformation bring in from outside of a slice is unlabelled. Slices are read as RGB, so the
first convolution has three input channels. The tile of "paper" is a whole slice with its mirrored context, 700 pixels
wide where figure 1 has 572; the crops of "small" are mirrored at their own edges.
"""

from ml_collections import ConfigDict

from segjax.core.config import default_config, finish

VARIANTS = {
    "small": dict(crop_size=(256, 256), width=16, depth=3, steps=2000, workers=0),
    "paper": dict(crop_size=(0, 0), width=64, depth=4, steps=20_000, workers=4),
}


def get_config(variant: str = "small") -> ConfigDict:
    """Variants are the keys of VARIANTS; "" is "small"."""
    variant = variant or "small"
    if variant not in VARIANTS:
        raise ValueError(f"the variant must be one of {', '.join(VARIANTS)}; received {variant!r}")
    chosen = VARIANTS[variant]
    config = default_config()

    config.data.name = "folder"
    config.data.batch_size = 1
    config.data.crop_size = chosen["crop_size"]
    config.data.workers = chosen["workers"]
    config.data.augment.elastic = 10.0
    config.data.augment.rotation = 180.0
    config.data.augment.photometric = 0.5  # grey has no hue or saturation: brightness and contrast
    config.data.border_weight.w0 = 10.0
    config.data.border_weight.sigma = 5.0
    config.data.border_weight.object_classes = (0,)  # cells are class 0, the membranes between them class 1

    config.model.update(
        name="unet", padding="valid", norm="none", dropout=0.5, width=chosen["width"], depth=chosen["depth"]
    )

    # Half over the share of the class in the training slices, 77.5 and 22.5 %.
    config.loss.class_weights = (0.65, 2.22)

    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.99
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "poly"
    config.optimizer.warmup_steps = 100

    config.training.steps = chosen["steps"]
    config.training.eval_every = chosen["steps"] // 5
    config.checkpoint.every = chosen["steps"] // 10
    # A multiple of 2**depth, so that the tiles give the logits of the whole slice; four tiles a slice.
    config.evaluation.window = (256, 256)
    config.evaluation.window_padding = "mirror"
    config.evaluation.batch_size = 2
    return finish(config)

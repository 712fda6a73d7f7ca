"""The four networks of `targets.py`, on the embedded data set: for `segjax.benchmark --config THIS_FILE:NETWORK`.

variants: a key of NETWORKS; with "-gpu" bfloat16 and a batch of 16 at 512x512, else float32 and 2 at 128x128.
"""

from ml_collections import ConfigDict

from segjax.core.config import default_config, finish

NETWORKS = {
    "unet": dict(name="unet", width=32, depth=4),
    "segnet": dict(name="segnet", form="vgg16"),
    "deeplab_v3plus": dict(name="deeplab_v3plus", backbone="resnet50"),
    "segformer": dict(name="segformer", drop_path=0.0),
}
SIZES = {"": (2, 128, "float32"), "gpu": (16, 512, "bfloat16")}
"""Batch, side in pixels and dtype."""

MORE = {"deeplab_v3plus": 1}
"""Pixels more, where the reference wants a side of 8k + 1."""


def get_config(variant: str = "unet") -> ConfigDict:
    """Variants are NETWORK or NETWORK-gpu."""
    network, _, kind = variant.partition("-")
    if network not in NETWORKS or kind not in SIZES:
        raise ValueError(f"the variant must be one of {', '.join(NETWORKS)}, or one with -gpu; received {variant!r}")
    batch, side, dtype = SIZES[kind]
    side += MORE.get(network, 0)
    config = default_config()
    config.data.update(name="digit_scenes", size=(side, side), batch_size=batch, check=False, workers=0)
    config.data.augment.flip_horizontal = 0.5
    config.model = ConfigDict({**NETWORKS[network], "dtype": dtype})
    config.parallel.update(data=1, fsdp=1)
    return finish(config)

"""What is done to a training batch on the device, before the network sees it.

The host's transforms end early (`until` of `segjax.data.augment.transforms.build_transforms`) and this goes on, at the
start of the jitted training step: geometric and photometric transforms (where the host only drew their numbers),
RandAugment, corruption, mixing, and always normalisation, before which an image has a quarter of the bytes. Random
numbers come from the step's key and the row of the global batch, so that neither the number of devices nor of processes
changes them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from segjax.core import sharding
from segjax.data.augment import device_transforms
from segjax.data.augment.mixing import REGIONS, mix
from segjax.data.augment.rand_augment import rand_augment

Batch = Mapping[str, Any]
Corrupt = Callable[[jax.Array, jax.Array], jax.Array]

OPS, CORRUPTION, MIX = range(3)
"""Folded into a row's key, for what each draws."""


def build_device_stage(
    *,
    mean: Sequence[float],
    std: Sequence[float],
    channel_order: str = "rgb",
    crop_size: tuple[int, int] | None = None,
    ops: int = 0,
    magnitude: float = 9.0,
    corrupt: Corrupt | None = None,
    corruption_probability: float = 0.0,
    mixing: str = "",
    mix_probability: float = 0.0,
) -> Callable[[Batch, jax.Array], dict[str, Any]]:
    """`augment(batch, key) -> batch`, to be called inside of a jitted step with that step's key.

    Args:
      mean, std, channel_order: of the normalisation; the mean is also the colour of what lies outside of an image.
      crop_size: of the batches that come with `parameters`; None keeps the images' size.
      ops, magnitude: of `segjax.data.augment.rand_augment.rand_augment`; 0 ops is off.
      corrupt: (key, image float32 [H, W, 3] in 0..255) -> image, called for each image with `corruption_probability`.
      mixing: a key of `segjax.data.augment.mixing.REGIONS`, or "".
    Returns:
      A function of a batch whose image is [N, H, W, 3] in 0..255, not normalised, with or without the `parameters` of
      `segjax.data.augment.parameters`, to the batch that the network sees (`segjax.core.batch`). What only normalises
      takes clips, [N, T, H, W, 3], too.
    """
    corrupts = corrupt is not None and corruption_probability

    def transformed(image, maps, drawn):
        return device_transforms.apply(image, maps, drawn, crop_size, mean)

    def perturbed(image, maps, key):
        if ops:
            key_of_ops = jax.random.fold_in(key, OPS)
            image, maps = rand_augment(key_of_ops, image, maps, ops=ops, magnitude=magnitude, fill=mean)
        if corrupts:
            chance, noise = jax.random.split(jax.random.fold_in(key, CORRUPTION))
            come = jax.random.bernoulli(chance, corruption_probability)
            image = jax.lax.cond(come, lambda image: corrupt(noise, image).astype(jnp.float32), lambda x: x, image)
        return image, maps

    def each_image(_, image, maps, drawn, keys):
        if drawn is not None:
            image, maps = jax.vmap(transformed)(image, maps, drawn)
        image = image.astype(jnp.float32)
        if ops or corrupts:
            # One image after the other, since vmap would compute each branch of a switch or cond for every image.
            image, maps = jax.lax.map(lambda one: perturbed(*one), (image, maps, keys))
        return image, maps

    def augment(batch: Batch, key: jax.Array) -> dict[str, Any]:
        image, maps = batch["image"], {name: batch[name] for name in ("label", "instance") if name in batch}
        rows = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch["label"].shape[0]))
        if "parameters" in batch or ops or corrupts:
            image, maps = sharding.by_examples(each_image, (), image, maps, batch.get("parameters"), rows)
        image = image.astype(jnp.float32)
        if mixing and mix_probability:
            row_keys = jax.vmap(lambda row: jax.random.fold_in(row, MIX))(rows)
            image, maps["label"] = mix(
                jax.random.fold_in(key, image.shape[0]),  # no row has this number
                row_keys,
                image,
                maps["label"],
                region=REGIONS[mixing],
                probability=mix_probability,
            )
        image = device_transforms.normalise(image, mean=mean, std=std, channel_order=channel_order)
        others = {name: value for name, value in batch.items() if name != "parameters"}
        return {**others, "image": image, **maps}

    return augment

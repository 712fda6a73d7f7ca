"""Padding of images to the sizes that a network's grid wants."""

import jax
import jax.numpy as jnp


def pad_image(image: jax.Array, multiple: int, remainder: int = 0) -> jax.Array:
    """Zeros at the bottom and the right of [N, H, W, C], so that H and W are multiples of `multiple` plus `remainder`.

    With remainder 1 the centres of the cells of a feature map of that stride lie on every `multiple`-th pixel, the
    first and last ones on the corners, where each step is that of a window centred on a pixel (3x3 padded by 1).
    """
    height, width = image.shape[1:3]
    return jnp.pad(image, ((0, 0), (0, (remainder - height) % multiple), (0, (remainder - width) % multiple), (0, 0)))

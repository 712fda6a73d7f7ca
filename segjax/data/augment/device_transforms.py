"""The transforms of `segjax.data.augment.transforms` in JAX, with the numbers that the host drew
(`segjax.data.augment.parameters`).

Everything is of one image, for `jax.vmap`: image float32 [H, W, 3] in 0..255, `maps` a dict of uint8 [H, W] (label and
instance). Images have whole levels, rounded where NumPy and Pillow round: after each pass of a resizing, each warp and
each change of colours. Labels are those of NumPy but for a warp's points on the border of two pixels, which float32
sums in another order may move across.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from segjax.core.batch import IGNORE_LABEL
from segjax.data.augment.warp import cubic_weights

Maps = dict[str, jax.Array]
EXACT = jax.lax.Precision.HIGHEST
"""Accelerators multiply matrices in fewer bits than levels need."""


def apply(
    image: jax.Array,
    maps: Mapping[str, jax.Array],
    drawn: Mapping[str, Any],
    crop_size: tuple[int, int] | None,
    fill: Sequence[float],
) -> tuple[jax.Array, Maps]:
    """`segjax.data.augment.transforms.apply` of one image: the same steps in the same order, scale, crop and flip in
    one.

    Args:
      image: uint8 or float32 [H, W, 3].
      drawn: of `segjax.data.augment.parameters.for_device`, without the axis of the batch.
    Returns:
      (image float32 [h, w, 3] of whole levels, maps uint8 [h, w]) with (h, w) the crop_size, or (H, W) without one.
    """
    image, maps = image.astype(jnp.float32), dict(maps)
    colour = jnp.round(jnp.asarray(fill, jnp.float32))
    if "rotation" in drawn:
        image, maps = warp(image, maps, *rotated(image.shape[:2], *drawn["rotation"]), colour)
    if "elastic" in drawn:
        image, maps = warp(image, maps, *deformed(image.shape[:2], drawn["elastic"]), colour)
    if any(name in drawn for name in ("size", "start", "flip")):
        image, maps = scale_crop_flip(image, maps, drawn, crop_size or image.shape[:2], colour)
    if "photometric" in drawn:
        image = distort_colours(image, **drawn["photometric"])
    return image, maps


def scale_crop_flip(
    image: jax.Array, maps: Mapping[str, jax.Array], drawn: Mapping[str, jax.Array], window: tuple[int, int], fill: Any
) -> tuple[jax.Array, Maps]:
    """What `window` shows of the scaled and flipped image: a matrix product along each axis, columns first as Pillow.

    Pixel i of the window is pixel start + i of the scaled image, or start + window - 1 - i where it is flipped.
    """
    lengths = jnp.array(image.shape[:2], jnp.int32)
    size, start = drawn.get("size", lengths), drawn.get("start", jnp.zeros(2, jnp.int32))
    left_right, top_bottom = drawn.get("flip", jnp.zeros(2, bool))
    rows, columns = (
        jnp.where(flipped, jnp.arange(count)[::-1], jnp.arange(count)) + start[axis]
        for axis, (count, flipped) in enumerate(zip(window, (top_bottom, left_right), strict=True))
    )
    inside = ((rows >= 0) & (rows < size[0]))[:, None] & ((columns >= 0) & (columns < size[1]))
    y, x = ((2 * p + 1) * old // (2 * new) for p, old, new in zip((rows, columns), image.shape, size, strict=False))
    y, x = jnp.clip(y, 0, image.shape[0] - 1), jnp.clip(x, 0, image.shape[1] - 1)
    new_maps = {name: jnp.where(inside, array[y][:, x], IGNORE_LABEL) for name, array in maps.items()}
    if "size" in drawn:
        across, down = triangle(columns, image.shape[1], size[1]), triangle(rows, image.shape[0], size[0])
        image = levels(jnp.einsum("xw,hwc->hxc", across, image, precision=EXACT))
        image = levels(jnp.einsum("yh,hxc->yxc", down, image, precision=EXACT))
    else:
        image = image[y][:, x]
    return jnp.where(inside[..., None], image, fill), new_maps


def triangle(places: jax.Array, old: int, new: jax.Array) -> jax.Array:
    """float32 [len(places), old]: row i weighs `old` pixels for pixel places[i] of the same axis resized to `new`.

    Pillow's BILINEAR: half-pixel centres, a triangle of one source pixel on each side, or of a step where that is
    more; the weights of pixels outside of the image are left out, and the others sum to 1.
    """
    step = old / new.astype(jnp.float32)
    centre = (places.astype(jnp.float32) + 0.5) * step
    distance = jnp.abs(jnp.arange(old) + 0.5 - centre[:, None])
    weights = jnp.maximum(0.0, 1.0 - distance / jnp.maximum(step, 1.0))
    return weights / jnp.maximum(weights.sum(1, keepdims=True), jnp.finfo(jnp.float32).tiny)


def rotated(size: tuple[int, int], sine: jax.Array, cosine: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where each pixel of the image turned about its centre comes from: float32 [H, W] rows and columns."""
    middle_y, middle_x = (size[0] - 1) / 2, (size[1] - 1) / 2
    y = (jnp.arange(size[0], dtype=jnp.float32) - middle_y)[:, None]
    x = (jnp.arange(size[1], dtype=jnp.float32) - middle_x)[None]
    return cosine * y + sine * x + middle_y, cosine * x - sine * y + middle_x


def deformed(size: tuple[int, int], grid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same for `segjax.data.augment.transforms.elastic_deformation`, of displacements [2, 3, 3]."""
    down, across = (jnp.asarray(cubic_weights(length)) for length in size)
    move_y, move_x = jnp.einsum("yi,kij,xj->kyx", down, grid, across, precision=EXACT)
    return jnp.arange(size[0])[:, None] + move_y, jnp.arange(size[1])[None] + move_x


def warp(
    image: jax.Array, maps: Mapping[str, jax.Array], y: jax.Array, x: jax.Array, fill: Any
) -> tuple[jax.Array, Maps]:
    """`segjax.data.augment.transforms.warp`: the image at (y, x), bilinear, the maps at the nearest pixel.

    y and x are held, or XLA might compute them anew, and round them otherwise, where a corner is read and where its
    share is computed: near a whole number that is the share of another pixel.
    """
    height, width = image.shape[:2]
    y, x = jax.lax.optimization_barrier((y, x))
    outside = (y < -0.5) | (y >= height - 0.5) | (x < -0.5) | (x >= width - 0.5)
    near_y = jnp.clip(jnp.floor(y + 0.5).astype(jnp.int32), 0, height - 1)
    near_x = jnp.clip(jnp.floor(x + 0.5).astype(jnp.int32), 0, width - 1)
    near = near_y * width + near_x  # one index is three times as fast as two, on a CPU
    new_maps = {name: jnp.where(outside, IGNORE_LABEL, _take(array.ravel(), near)) for name, array in maps.items()}
    y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
    top, left = y.astype(jnp.int32), x.astype(jnp.int32)
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    part_y, part_x = (y - top)[..., None], (x - left)[..., None]
    upper_left, upper_right, lower_left, lower_right = (
        _take(image.reshape(-1, 3), row * width + column) for row in (top, bottom) for column in (left, right)
    )
    upper = upper_left + (upper_right - upper_left) * part_x
    lower = lower_left + (lower_right - lower_left) * part_x
    new_image = levels(upper + (lower - upper) * part_y)
    return jnp.where(outside[..., None], fill, new_image), new_maps


def _take(array: jax.Array, index: jax.Array) -> jax.Array:
    return array.at[index].get(mode="promise_in_bounds")


def levels(values: jax.Array) -> jax.Array:
    """Rounded (halves up) and clipped to 0..255."""
    return jnp.clip(jnp.floor(values + 0.5), 0.0, 255.0)


def distort_colours(
    image: jax.Array,
    *,
    shift: jax.Array,
    contrast: jax.Array,
    saturation: jax.Array,
    hue: jax.Array,
    contrast_first: jax.Array,
) -> jax.Array:
    """`segjax.data.augment.transforms.photometric_distortion` of whole levels with drawn numbers."""
    image = _nearest_level(image + shift)
    image = jnp.where(contrast_first, _nearest_level(image * contrast), image)
    h, s, v = to_hsv(image)
    h = h + hue  # by less than a turn
    h = jnp.where(h < 0, h + 256, jnp.where(h >= 256, h - 256, h))
    changed = from_hsv(h, _nearest_level(s * saturation), v)
    image = jnp.where((saturation != 1.0) | (hue != 0), changed, image)
    return jnp.where(contrast_first, image, _nearest_level(image * contrast))


def _nearest_level(values: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(values), 0.0, 255.0)


def to_hsv(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pillow's RGB -> HSV of whole levels, [..., 3] -> three [...] in 0..255, float32; equal for all 2^24 colours.

    Saturation is 255 chroma / value, hue 255/6 of the sixths of a turn, both rounded down. Where the hue is a whole
    number Pillow's float32 may fall below it; `_falls_below` says for which.
    """
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value = jnp.maximum(red, jnp.maximum(green, blue))
    chroma = value - jnp.minimum(red, jnp.minimum(green, blue))
    saturation = _quotient(255 * chroma, jnp.maximum(value, 1.0))
    turn = 6 * jnp.maximum(chroma, 1.0)
    angle = jnp.where(
        value == red, green - blue, jnp.where(value == green, 2 * chroma + blue - red, 4 * chroma + red - green)
    )
    scaled = 255 * jnp.where(angle < 0, angle + turn, angle)
    hue = _quotient(scaled, turn)
    below = jnp.asarray(_falls_below())[hue.astype(jnp.int32)]
    return jnp.where((scaled == hue * turn) & below, hue - 1, hue), saturation, value


def from_hsv(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """Pillow's HSV -> RGB, three float32 [...] of whole levels -> [..., 3]; equal for all 2^24 triples."""
    sector = _quotient(6 * hue, 255.0)
    part = 6 * hue - 255 * sector

    def less(share):  # value (1 - saturation share / 255^2), rounded; 255 is odd, so there are no halves
        return value - jnp.round(value * saturation * share / 255.0**2)

    low, falling, rising = less(255.0), less(part), less(255.0 - part)
    channels = (
        (value, falling, low, low, rising, value),
        (rising, value, value, falling, low, low),
        (low, low, rising, value, value, falling),
    )
    sixth = [(sector == k) | (sector == k + 6) for k in range(6)]
    return jnp.stack([jnp.select(sixth, list(of)) for of in channels], -1)


def _quotient(a: jax.Array, b: jax.Array | float) -> jax.Array:
    """a // b of whole numbers in float32, for b up to 1530 and a // b up to 255; the half keeps it off whole numbers.

    Division of integers has no vector instruction, and a quotient that is corrected by its remainder has XLA on CPUs
    compute what goes into it again and again: with either the photometric part took twenty times as long.
    """
    return jnp.floor((a + 0.5) / b)


@lru_cache(maxsize=1)
def _falls_below() -> np.ndarray:
    """bool [255]: hues k/255 that Pillow rounds down to k - 1, found with a colour of each, of value and chroma 85."""
    k = np.arange(255)
    red, green, blue = np.abs(2 * k - 255) - 85, 170 - np.abs(2 * k - 170), 170 - np.abs(2 * k - 340)
    colours = np.stack([red, green, blue], -1).clip(0, 85).astype(np.uint8)
    return np.asarray(Image.fromarray(colours[None]).convert("HSV"))[0, :, 0] < k


def normalise(
    image: jax.Array, *, mean: Sequence[float], std: Sequence[float], channel_order: str = "rgb"
) -> jax.Array:
    """`segjax.data.augment.transforms.normalise` of [..., 3]."""
    image = (image - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
    return image[..., ::-1] if channel_order == "bgr" else image

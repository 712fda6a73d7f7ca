"""Common corruptions of images in five severities, on the device, in the style of ImageNet-C.

Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019; the
constants are those of the authors' code, github.com/hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py. What
is different here:
  - Lengths in pixels (of blurs, snow, rain, ice) are for a shorter side of 224 pixels, and grow with it.
  - Motion blur leaves objects in their places on the whole, where the original moves them, so that labels stay right.
  - Discs have an edge one pixel wide in place of the original's rounded pixels and small Gaussian.
  - Frost is computed, where the original lays photographs over the image.
  - Rain and night are ours. Glass and zoom blur and elastic deformations are left out.
No function changes where things are, so labels stay as they are.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from segjax.core.config import nearest
from segjax.data.augment import jpeg as jpeg_lib
from segjax.data.augment.blur import FULL, convolve, disc_kernel, gaussian_kernel, line_kernel
from segjax.data.augment.weather import at, fog, frost, night, rain, scale, snow

SEVERITIES = (1, 2, 3, 4, 5)
GAUSSIAN_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation in 0..1
SHOT_NOISE = (60, 25, 12, 5, 3)  # photons of a white pixel
IMPULSE_NOISE = (0.03, 0.06, 0.09, 0.17, 0.27)  # part of the values that are replaced
DEFOCUS_BLUR = (3, 4, 6, 8, 10)  # radius in pixels
GAUSSIAN_BLUR = (1, 2, 3, 4, 6)  # sigma in pixels
MOTION_BLUR = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # radius and sigma in pixels
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # what is left of it
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # added to the value of HSV in 0..1
JPEG = (25, 18, 15, 10, 7)  # quality
PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)  # size of the small image


def gaussian_noise(key, image, severity):
    return image + 255 * at(severity, GAUSSIAN_NOISE) * jax.random.normal(key, image.shape)


def shot_noise(key, image, severity):
    """Counts of photons, Poisson: how many steps of the distribution function lie below a uniform draw.

    Three times as fast on a CPU as `jax.random.poisson`. A draw has 23 bits: what is rarer than 1e-7 does not happen.
    """
    photons = at(severity, SHOT_NOISE)
    mean, draw = image / 255 * photons, jax.random.uniform(key, image.shape)

    def step(count, state):
        part, below, found = state
        part = part * mean / count
        return part, below + part, found + (draw >= below)

    first = jnp.exp(-mean)
    most = jnp.ceil(photons + 6 * jnp.sqrt(photons) + 6).astype(int)
    return 255 * jax.lax.fori_loop(1, most, step, (first, first, jnp.zeros_like(mean)))[2] / photons


def impulse_noise(key, image, severity):
    """Salt and pepper, in each channel by itself."""
    draw, part = jax.random.uniform(key, image.shape), at(severity, IMPULSE_NOISE)
    return jnp.where(draw < part / 2, 0, jnp.where(draw < part, 255, image))


def defocus_blur(key, image, severity):
    reach = math.ceil(max(DEFOCUS_BLUR) * scale(image) + 0.5)
    mode = "reflect" if min(image.shape[:2]) > 1 else "edge"  # a line has nothing beside it to be mirrored
    return convolve(image, disc_kernel(at(severity, DEFOCUS_BLUR) * scale(image), reach), mode)


def gaussian_blur(key, image, severity):
    reach = math.floor(4 * max(GAUSSIAN_BLUR) * scale(image) + 0.5)
    return convolve(image, gaussian_kernel(at(severity, GAUSSIAN_BLUR) * scale(image), reach))


def motion_blur(key, image, severity):
    """Along a line at a random angle within 45 degrees of the horizontal."""
    radius, sigma = at(severity, MOTION_BLUR) * scale(image)
    angle = jax.random.uniform(key, minval=-jnp.pi / 4, maxval=jnp.pi / 4)
    reach = math.ceil(2 * max(radius for radius, _ in MOTION_BLUR) * scale(image))
    return convolve(image, line_kernel(2 * radius, sigma, angle, reach))


def contrast(key, image, severity):
    mean = image.mean((0, 1))
    return (image - mean) * at(severity, CONTRAST) + mean


def brightness(key, image, severity):
    """The value of HSV, which is the largest of R, G, B, grows; hue and saturation stay."""
    value = image.max(-1, keepdims=True)
    brighter = jnp.minimum(value + 255 * at(severity, BRIGHTNESS), 255)
    return jnp.where(value > 0, image * (brighter / jnp.maximum(value, 1)), brighter)


def jpeg(key, image, severity):
    return jpeg_lib.jpeg(jnp.round(image), jnp.asarray(JPEG)[severity - 1])


def pixelate(key, image, severity):
    """Made small and large again with a box filter: every pixel becomes the mean of its cell."""
    # float64 decides how many cells there are: int(0.3 * 480) must be that of Python.
    counts = [
        jnp.asarray([max(1, int(length * size)) for size in PIXELATE])[severity - 1] for length in image.shape[:2]
    ]
    rows, columns = (_cell_means(length, count) for length, count in zip(image.shape[:2], counts, strict=True))
    # 8 bits after each axis, halves rounded up, as in Pillow.
    image = jnp.floor(jnp.einsum("xw,hwc->hxc", columns, image, precision=FULL) + 0.5)
    return jnp.floor(jnp.einsum("yh,hxc->yxc", rows, image, precision=FULL) + 0.5)


def _cell_means(length: int, count: jax.Array) -> jax.Array:
    """The matrix that replaces each of `length` values by the mean of those in the same of `count` equal cells.

    Where the middle of a pixel lies between two cells it is counted in the first and takes the second, as in Pillow,
    save where Pillow's floating-point coordinates decide otherwise: 0.3 % of the rows of images of 2 to 700 pixels.
    """
    middle = (2 * jnp.arange(length) + 1) * count  # in units of a cell divided by 2 * length
    same = (middle[:, None] // (2 * length) == (middle - 1) // (2 * length)).astype(jnp.float32)
    return same / same.sum(1, keepdims=True)


def _finished(function: Callable) -> Callable:
    @jax.jit
    def corruption(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
        return jnp.clip(jnp.round(function(key, image.astype(jnp.float32), severity)), 0, 255)

    return corruption


CORRUPTIONS: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    function.__name__: _finished(function)
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        gaussian_blur,
        motion_blur,
        fog,
        frost,
        snow,
        rain,
        night,
        contrast,
        brightness,
        jpeg,
        pixelate,
    )
}
"""name -> (key, image [H, W, 3], severity) -> float32 [H, W, 3], whole numbers in 0..255, as `corrupt` says."""


def corrupt(name: str, key: jax.Array, image: jax.Array, severity: int | jax.Array) -> jax.Array:
    """One corruption of one image; for several, `jax.vmap`.

    Args:
      name: a key of CORRUPTIONS.
      key: of `jax.random`; the same key, image and severity give the same result.
      image: [H, W, 3] RGB in 0..255, of any size and number type.
      severity: 1..5. May be traced: one compilation serves all five.
    Returns:
      float32 [H, W, 3], whole numbers in 0..255.
    Raises:
      ValueError: an unknown name, a severity that is known and not in 1..5, or an image of another shape.
    """
    _check(name, image)
    if isinstance(severity, int | np.integer) and severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {SEVERITIES}; received {severity}")
    return CORRUPTIONS[name](key, image, jnp.asarray(severity, jnp.int32))


def random_corruption(
    key: jax.Array, image: jax.Array, names: tuple[str, ...], severities: tuple[int, int]
) -> jax.Array:
    """A random one of some corruptions at a random severity: for training, inside of jit.

    All of the names are compiled, and one is computed; but under `jax.vmap` all are, so take `jax.lax.map` for a batch.

    Args:
      key, image: as in `corrupt`.
      names: keys of CORRUPTIONS, all as likely.
      severities: the lowest and the highest, in 1..5, all between as likely.
    Returns:
      float32 [H, W, 3], whole numbers in 0..255.
    Raises:
      ValueError: no name, an unknown one, or severities that are no range in 1..5.
    """
    if not names:
        raise ValueError("names must be one or more corruptions; received none")
    for name in names:
        _check(name, image)
    low, high = severities
    if not 1 <= low <= high <= 5:
        raise ValueError(
            f"severities must be (lowest, highest) with 1 <= lowest <= highest <= 5; received {severities}"
        )
    for_name, for_severity, key = jax.random.split(key, 3)
    severity = jax.random.randint(for_severity, (), low, high + 1)
    which = jax.random.randint(for_name, (), 0, len(names))
    return jax.lax.switch(which, [CORRUPTIONS[name] for name in names], key, image, severity)


def _check(name: str, image: jax.Array) -> None:
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption {name!r} is unknown; {nearest(name, CORRUPTIONS)}")
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"image must be [H, W, 3] with a pixel at least; received {list(image.shape)}")

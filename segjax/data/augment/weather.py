"""Weather and darkness laid over an image on the device: fog, frost, snow, rain, night.

Fog and snow are those of ImageNet-C (Hendrycks & Dietterich 2019) with the constants of its code,
github.com/hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py. Its frost is a photograph laid over the image;
here feathers of ice are computed, with its weights. Rain and night are not in it, and their constants are ours.

A function is (key, image, severity) -> image: image float32 [H, W, 3] in 0..255, severity an integer in 1..5 that may
be traced; the result is not yet rounded or clipped. Lengths are for images whose shorter side has 224 pixels, as
ImageNet-C's have, and grow with it.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from segjax.data.augment.blur import convolve, line_kernel

SHORTER_SIDE = 224
"""Pixels, of the images for which ImageNet-C's lengths were chosen."""

FOG = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))
"""Weight of the fog, and the factor by which its fluctuations lessen from one scale to the next (twice)."""

FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
"""Weights of the image and of the ice."""

SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
"""Mean and deviation of noise, its magnification, the threshold, radius and sigma of the motion, the image's part."""

RAIN = (
    (0.0015, 14, 0.3, 0.1),
    (0.0025, 18, 0.36, 0.2),
    (0.0035, 22, 0.42, 0.3),
    (0.005, 26, 0.48, 0.4),
    (0.006, 32, 0.54, 0.5),
)
"""Near drops for each pixel, length of a streak, its opacity, the part of the contrast that is lost."""

NIGHT = (
    (0.75, 1.1, 300, 0.01),
    (0.62, 1.2, 150, 0.015),
    (0.52, 1.35, 80, 0.02),
    (0.43, 1.5, 40, 0.03),
    (0.35, 1.6, 20, 0.04),
)
"""Gain, gamma, photons of a white pixel in the light of day, deviation of the sensor's own noise in 0..1."""


def at(severity: jax.Array, table: tuple) -> jax.Array:
    """The row of a table of five: float32, a number or a vector."""
    return jnp.asarray(table, jnp.float32)[severity - 1]


def scale(image: jax.Array) -> float:
    """Pixels of this image in one of ImageNet-C's."""
    return min(image.shape[:2]) / SHORTER_SIDE


def fog(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """White clouds of `plasma` are added, and the whole is brought back to the brightness that the image had."""
    weight, decay = at(severity, FOG)
    largest = image.max() / 255
    clouds = plasma(key, image.shape[:2], decay)[..., None]
    return 255 * jnp.clip((image / 255 + weight * clouds) * largest / jnp.maximum(largest + weight, 1e-6), 0, 1)


def plasma(key: jax.Array, size: tuple[int, int], decay: jax.Array) -> jax.Array:
    """A height map by the diamond-square algorithm, that repeats at its edges; float32 [H, W] in 0..1.

    A square of 2^n pixels, of which the size is cut. From one scale to the next the deviations lessen by decay^2, as in
    ImageNet-C, whose amplitude is a number multiplied by a draw from as wide a range.
    """
    levels = max(1, math.ceil(math.log2(max(size))))
    draws = jax.random.uniform(key, (4**levels,), minval=-1.0)  # in one piece, since each call is compiled anew
    corners = jnp.zeros((1, 1))

    def around(values, level, third):
        start = 4**level * (1 + third)
        draw = draws[start : start + 4**level].reshape(2**level, 2**level)
        return sum(values) / 4 + draw / decay ** (2 * level)

    for level in range(levels):
        right = jnp.roll(corners, -1, 1)
        below = jnp.roll(corners, -1, 0)
        middle = around([corners, right, below, jnp.roll(right, -1, 0)], level, 0)
        beside = around([corners, right, middle, jnp.roll(middle, 1, 0)], level, 1)
        under = around([corners, below, middle, jnp.roll(middle, 1, 1)], level, 2)
        rows = [jnp.stack(pair, -1).reshape(len(corners), -1) for pair in ((corners, beside), (under, middle))]
        corners = jnp.stack(rows, 1).reshape(2 * len(corners), -1)
    corners -= corners.min()
    return (corners / jnp.maximum(corners.max(), 1e-6))[: size[0], : size[1]]


def frost(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Feathers of ice, see `ice`, laid over a fainter image."""
    kept, added = at(severity, FROST)
    return kept * image + added * ice(key, image.shape[:2])


def ice(key: jax.Array, size: tuple[int, int], crystals: int = 30) -> jax.Array:
    """Ice on a window: float32 [H, W, 3] in 0..255, bluish white on dark.

    Needles radiate from random points, each pixel's from the nearest one, and branch into ever finer ones: ridges of
    noise that is long in the radius and short in the angle. They are thick where a plasma is high and towards the edges
    of the window.
    """
    height, width = size
    for_clouds, for_rest = jax.random.split(key)
    unit = max(min(size) / SHORTER_SIDE, 1e-3)
    clouds = plasma(for_clouds, size, jnp.float32(1.4))
    warp = 40 * unit * (clouds - 0.5)  # bends the needles
    y, x = jnp.mgrid[:height, :width]
    draws = jax.random.uniform(for_rest, (2 * crystals + 256 * 256 + height * width,))  # each call is compiled anew
    table, grain = draws[2 * crystals : -height * width].reshape(256, 256), draws[-height * width :].reshape(size)
    points = (1.2 * draws[: 2 * crystals].reshape(-1, 2) - 0.1) * jnp.array([height, width])
    dy, dx = y + warp - points[:, 0, None, None], x - warp - points[:, 1, None, None]
    owner = (dy**2 + dx**2).argmin(0)[None]
    dy, dx = (jnp.take_along_axis(offset, owner, 0)[0] / unit for offset in (dy, dx))
    radius, turn = jnp.hypot(dy, dx), jnp.arctan2(dy, dx) / (2 * jnp.pi) + 0.5

    def ridges(needles, length):
        """Thin bright lines: where noise crosses one half. The angle has `needles` values, then they repeat."""
        row, column = (radius / length + 7 * owner[0]) % 256, turn * needles
        top, left = jnp.floor(row).astype(int), jnp.floor(column).astype(int)
        down, right = row - top, column - left

        def noise(i, j):
            return table[(top + i) % 256, (left + j) % needles]

        above = (1 - right) * noise(0, 0) + right * noise(0, 1)
        below = (1 - right) * noise(1, 0) + right * noise(1, 1)
        return 1 - jnp.abs(2 * ((1 - down) * above + down * below) - 1)

    needles = 0.5 * ridges(36, 30) ** 4 + 0.4 * ridges(90, 14) ** 4 + 0.3 * ridges(200, 7) ** 3
    needles += 0.2 * grain
    edge = jnp.maximum(jnp.abs(2 * (y + 0.5) / height - 1), jnp.abs(2 * (x + 0.5) / width - 1))
    thick = jnp.clip(2.2 * clouds + 0.6 * edge**2 - 0.8, 0, 1)
    bright = jnp.clip(0.1 + thick * (0.2 + 1.1 * needles), 0, 1)
    return bright[..., None] * jnp.array([220.0, 235.0, 255.0])


def snow(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Flakes: normal noise, magnified, cut off below a threshold, moved in falling; and a whitened image."""
    mean, deviation, zoom, threshold, radius, sigma, kept = at(severity, SNOW)
    height, width = image.shape[:2]
    unit = scale(image)
    for_noise, for_angle = jax.random.split(key)
    noise = mean + deviation * jax.random.normal(for_noise, (height, width))
    zoom = jnp.maximum(
        zoom * unit, 2
    )  # what is interpolated varies less than the noise, and the threshold counts on it
    y = height / 2 + (jnp.arange(height) - height / 2) / zoom
    x = width / 2 + (jnp.arange(width) - width / 2) / zoom
    flakes = map_coordinates(noise, jnp.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")
    flakes = jnp.clip(jnp.where(flakes < threshold, 0, flakes), 0, 1)
    angle = jnp.deg2rad(jax.random.uniform(for_angle, minval=-135, maxval=-45))
    kernel = line_kernel(2 * radius * unit, sigma * unit, angle, math.ceil(2 * 12 * unit))
    flakes = convolve(flakes[..., None], kernel)
    image = image / 255
    white = jnp.maximum(image, grey(image) * 1.5 + 0.5)
    return 255 * (kept * image + (1 - kept) * white + flakes + flakes[::-1, ::-1])


def rain(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """Bright streaks, all in about one direction, over an image that has lost contrast and light in the haze.

    Far drops make half as long and faint streaks as near ones and are three times as many.
    """
    density, length, opacity, haze = at(severity, RAIN)
    unit = scale(image)
    for_near, for_far, for_angle = jax.random.split(key, 3)
    angle = jnp.deg2rad(jax.random.uniform(for_angle, minval=-110, maxval=-70))
    reach = math.ceil(RAIN[-1][1] * unit)

    def streaks(key, density, length):
        drops = jax.random.uniform(key, image.shape[:2]) < density / max(unit, 1) ** 2
        kernel = line_kernel(length * unit, length * unit, angle, reach)
        return convolve(drops[..., None].astype(jnp.float32), kernel / jnp.maximum(kernel.max(), 1e-6))

    seen = streaks(for_near, density, length) + 0.5 * streaks(for_far, 3 * density, length / 2)
    seen = opacity * jnp.clip(seen, 0, 1)
    image = (1 - haze) * image + haze * (0.5 * grey(image).mean() + 60)
    return (1 - seen) * image + seen * 220


def night(key: jax.Array, image: jax.Array, severity: jax.Array) -> jax.Array:
    """gain * value^gamma with less colour and a bluish tint, the noise of few photons, and the sensor's own.

    The noise is normal with variance value / photons + deviation^2, in 0..1.
    """
    gain, gamma, photons, deviation = at(severity, NIGHT)
    light = gain * (image / 255) ** gamma
    light = (0.7 * light + 0.3 * grey(light)) * jnp.array([0.85, 0.95, 1.1])
    noise = jnp.sqrt(light / photons + deviation**2) * jax.random.normal(key, image.shape)
    return 255 * (light + noise)


def grey(image: jax.Array) -> jax.Array:
    """ITU-R BT.601 luma, [H, W, 3] -> [H, W, 1]."""
    return (0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2])[..., None]

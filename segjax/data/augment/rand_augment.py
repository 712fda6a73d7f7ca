"""RandAugment for segmentation, on the device.

Cubuk, Zoph, Shlens and Le, "RandAugment: Practical automated data augmentation with a reduced search space", 2020,
arXiv:1909.13719: `ops` of 14 transforms, drawn uniformly and one after the other, all at one magnitude on a scale of 0
to 10. Colours are those of PIL's ImageOps and ImageEnhance, on whole levels; geometry moves image and label together.

The paper leaves the ranges to AutoAugment (Cubuk et al. 2019), whose largest values are taken here. Deviations: at
magnitude 0 enhancing, posterizing, solarizing and geometry change nothing and at 10 most, where the authors' code
enhances by 0.1 + 0.18 magnitude, and posterizes and solarizes less the larger it is; a sign is drawn for enhancing as
for geometry; translations are in proportion to the image, 150 of AutoAugment's 331 pixels at most, in whole pixels.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from segjax.data.augment.device_transforms import Maps, warp

COLOURS = (
    "identity",
    "autocontrast",
    "equalize",
    "posterize",
    "solarize",
    "colour",
    "contrast",
    "brightness",
    "sharpness",
)
GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
OPS = (*COLOURS, *GEOMETRY)

MAX_MAGNITUDE = 10.0


def rand_augment(
    key: jax.Array,
    image: jax.Array,
    maps: Mapping[str, jax.Array],
    *,
    ops: int,
    magnitude: float,
    fill: Sequence[float],
) -> tuple[jax.Array, Maps]:
    """`ops` random transforms of one image and its label maps.

    Not for `jax.vmap`, under which `jax.lax.switch` computes every branch for every image, a histogram and a warp among
    them: `jax.lax.map` goes through the images and computes what was drawn.

    Args:
      image: float32 [H, W, 3] in 0..255, rounded to whole levels.
      maps: uint8 [H, W] each.
      magnitude: 0..10.
      fill: R, G, B of what comes from outside of the image; it is IGNORE_LABEL in the maps.
    """

    def body(number, carry):  # a loop, so that the branches are compiled once
        which, sign = jax.random.split(jax.random.fold_in(key, number))
        op = jax.random.randint(which, (), 0, len(OPS))
        sign = jnp.where(jax.random.bernoulli(sign), 1.0, -1.0)
        return apply_op(op, *carry, magnitude=magnitude, sign=sign, fill=fill)

    return jax.lax.fori_loop(0, ops, body, (jnp.round(image), dict(maps)))


def apply_op(
    op: jax.Array,
    image: jax.Array,
    maps: Mapping[str, jax.Array],
    *,
    magnitude: float,
    sign: jax.Array,
    fill: Sequence[float],
) -> tuple[jax.Array, Maps]:
    """OPS[op] of an image of whole levels; `sign`, 1 or -1, counts for enhancing and geometry."""
    part = magnitude / MAX_MAGNITUDE
    factor = 1.0 + 0.9 * part * sign
    colours = {
        "identity": lambda image: image,
        "autocontrast": autocontrast,
        "equalize": equalize,
        "posterize": lambda image: posterize(image, 8 - round(4 * part)),
        "solarize": lambda image: solarize(image, 256 * (1 - part)),
        "colour": lambda image: blend(grey(image)[..., None], image, factor),
        "contrast": lambda image: blend(jnp.floor(grey(image).mean() + 0.5), image, factor),
        "brightness": lambda image: blend(0.0, image, factor),
        "sharpness": lambda image: blend(smooth(image), image, factor),
    }
    branches = [lambda image, maps, change=colours[name]: (change(image), maps) for name in COLOURS]

    def move(image, maps):
        colour = jnp.round(jnp.asarray(fill, jnp.float32))
        return warp(image, maps, *source_points(op - len(COLOURS), part, sign, image.shape[:2]), colour)

    return jax.lax.switch(jnp.minimum(op, len(COLOURS)), [*branches, move], image, dict(maps))


def source_points(which: jax.Array, part: float, sign: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Where the pixels of GEOMETRY[which] come from: rows and columns, float32 [H, W], 0 at the first pixel's centre.

    All five are affine maps: shears leave the top left corner where it is, as in AutoAugment, and rotation, positive
    anticlockwise, the centre.
    """
    height, width = size
    shear, angle = 0.3 * part * sign, jnp.deg2rad(30.0) * part * sign
    across, down = (round(150 / 331 * part * length) * sign for length in (width, height))
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    middle_x, middle_y = width / 2, height / 2
    # x' = a x + b y + c and y' = d x + e y + f, with pixel i at i + 1/2.
    rotation = (cosine, -sine, middle_x - cosine * middle_x + sine * middle_y)
    rotation += (sine, cosine, middle_y - sine * middle_x - cosine * middle_y)
    maps = [(1, shear, 0, 0, 1, 0), (1, 0, 0, shear, 1, 0), (1, 0, across, 0, 1, 0), (1, 0, 0, 0, 1, down), rotation]
    table = jnp.stack([jnp.stack([jnp.asarray(value, jnp.float32) for value in row]) for row in maps])
    a, b, c, d, e, f = table[which]
    x, y = jnp.arange(width)[None] + 0.5, jnp.arange(height)[:, None] + 0.5
    return d * x + e * y + f - 0.5, a * x + b * y + c - 0.5


def autocontrast(image: jax.Array) -> jax.Array:
    """Each channel stretched to 0..255; one of a single level stays. PIL's float64 may be one level below."""
    low, high = image.min((0, 1)), image.max((0, 1))
    span = (high - low).astype(jnp.int32)
    stretched = 255 * (image - low).astype(jnp.int32) // jnp.maximum(span, 1)
    return jnp.where(span > 0, stretched.astype(jnp.float32), image)


def equalize(image: jax.Array) -> jax.Array:
    """Each channel mapped so that its histogram is even, as ImageOps.equalize does it, in integers."""

    def channel(values):
        values = values.astype(jnp.int32)
        counts = jnp.zeros(256, jnp.int32).at[values].add(1)
        last = counts[values.max()]
        step = (counts.sum() - last) // 255
        table = jnp.minimum((step // 2 + jnp.cumsum(counts) - counts) // jnp.maximum(step, 1), 255)
        return jnp.where(step > 0, table, jnp.arange(256))[values]

    return jnp.stack([channel(image[..., c]) for c in range(3)], -1).astype(jnp.float32)


def posterize(image: jax.Array, bits: int) -> jax.Array:
    """The highest `bits` of 8 kept."""
    return (image.astype(jnp.int32) & (256 - 2 ** (8 - bits))).astype(jnp.float32)


def solarize(image: jax.Array, threshold: float) -> jax.Array:
    """Levels from the threshold on inverted."""
    return jnp.where(image < threshold, image, 255.0 - image)


def grey(image: jax.Array) -> jax.Array:
    """PIL's L of [..., 3]: ITU-R 601-2 luma in 16 bits after the point."""
    weights = jnp.array([19595, 38470, 7471])
    return (((image.astype(jnp.int32) * weights).sum(-1) + 2**15) >> 16).astype(jnp.float32)


def smooth(image: jax.Array) -> jax.Array:
    """ImageFilter.SMOOTH: a mean over 3x3 in which the middle counts 5 times; the outermost pixels stay."""
    height, width = image.shape[:2]
    if min(height, width) < 3:
        return image
    shifted = [image[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
    inner = jnp.floor((sum(shifted) + 4 * shifted[4]) / 13 + 0.5)
    return image.at[1:-1, 1:-1].set(inner)


def blend(degenerate: jax.Array | float, image: jax.Array, factor: jax.Array) -> jax.Array:
    """PIL's Image.blend: degenerate at factor 0, the image at 1, beyond it above 1; rounded down."""
    return jnp.floor(jnp.clip(degenerate + factor * (image - degenerate), 0.0, 255.0))

"""What baseline JPEG leaves of an image, on the device: everything that loses something, and no entropy coding.

ITU-T T.81 (1992) with its tables K.1 and K.2, scaled to a quality as the Independent JPEG Group's library (libjpeg)
does, 4:2:0 chroma, and libjpeg's own rounding of colours, of averages and of "fancy" upsampling. Compared with Pillow
at the same quality: its integer DCT differs from ours now and then by one grey value.
"""

import jax
import jax.numpy as jnp
import numpy as np

LUMINANCE = np.array(
    """16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
    """.split(),
    np.float32,
).reshape(8, 8)
CHROMINANCE = np.full((8, 8), 99, np.float32)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

FULL = jax.lax.Precision.HIGHEST


def jpeg(image: jax.Array, quality: jax.Array) -> jax.Array:
    """Compressed and decompressed.

    Args:
      image: whole numbers in 0..255 as float32 [H, W, 3] RGB, of any size.
      quality: integer 1..100, may be traced.
    Returns:
      float32 [H, W, 3], whole numbers in 0..255.
    """
    height, width = image.shape[:2]
    y, cb, cr = jnp.round(_to_ycc(image))
    chroma = [_shrink(plane) for plane in (cb, cr)]
    y = _through_blocks(y, _table(LUMINANCE, quality))
    cb, cr = (_through_blocks(plane, _table(CHROMINANCE, quality))[: -(-height // 2)] for plane in chroma)
    cb, cr = (_grow(plane[:, : -(-width // 2)])[:height, :width] - 128 for plane in (cb, cr))
    red, blue = y + jnp.round(1.402 * cr), y + jnp.round(1.772 * cb)
    green = y + jnp.round(-0.344136286 * cb - 0.714136286 * cr)
    return jnp.clip(jnp.stack([red, green, blue], -1), 0, 255)


def _to_ycc(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """JFIF's Y, Cb, Cr, each [H, W]."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    cb = -0.168735892 * red - 0.331264108 * green + 0.5 * blue + 128
    cr = 0.5 * red - 0.418687589 * green - 0.081312411 * blue + 128
    return jnp.stack([y, cb, cr])


def _table(table: np.ndarray, quality: jax.Array) -> jax.Array:
    """The quantisation steps of a quality, as `jpeg_set_quality` of libjpeg scales them."""
    percent = jnp.where(quality < 50, 5000 // jnp.maximum(quality, 1), 200 - 2 * quality)
    return jnp.clip(jnp.floor((table * percent + 50) / 100), 1, 255)


def _dct() -> np.ndarray:
    """The orthonormal DCT-II of 8 values as a matrix."""
    frequency, place = np.mgrid[:8, :8]
    matrix = np.sqrt(2 / 8) * np.cos(np.pi * (2 * place + 1) * frequency / 16)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def _through_blocks(plane: jax.Array, table: jax.Array) -> jax.Array:
    """[H, W] -> [H, W]: 8x8 blocks transformed, rounded to multiples of the table, and back."""
    height, width = plane.shape
    rows, columns = -(-height // 8), -(-width // 8)
    plane = jnp.pad(plane, ((0, 8 * rows - height), (0, 8 * columns - width)), mode="edge") - 128
    blocks, dct = plane.reshape(rows, 8, columns, 8), _dct()
    found = jnp.einsum("ui,rick,vk->rucv", dct, blocks, dct, precision=FULL)
    steps = table[None, :, None, :]
    # libjpeg rounds halves away from zero, and DC values are multiples of 1/8, so that halves are common.
    found = jnp.sign(found) * jnp.floor(jnp.abs(found) / steps + 0.5 + 1e-4) * steps
    blocks = jnp.einsum("ui,rucv,vk->rick", dct, found, dct, precision=FULL)
    blocks = jnp.clip(jnp.round(blocks + 128), 0, 255)
    return blocks.reshape(8 * rows, 8 * columns)[:height, :width]


def _shrink(plane: jax.Array) -> jax.Array:
    """The mean of 2x2 pixels, rounded down and up by turns, with as many columns as fill libjpeg's blocks."""
    height, width = plane.shape
    plane = jnp.pad(plane, ((0, height % 2), (0, -width % 16)), mode="edge")
    total = plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]
    return jnp.floor((total + 1 + jnp.arange(total.shape[1]) % 2) / 4)


def _grow(plane: jax.Array) -> jax.Array:
    """Twice as high and wide: 3/4 of the nearer and 1/4 of the farther; libjpeg repeats where there are two columns."""
    if plane.shape[1] <= 2:
        return plane.repeat(2, 0).repeat(2, 1)
    tall = _mixed(plane)  # not yet divided by 4, so that there is one rounding
    wide = _mixed(tall.T).T
    return jnp.floor((wide + 8 - jnp.arange(wide.shape[1]) % 2) / 16)


def _mixed(plane: jax.Array) -> jax.Array:
    """4 times the values between rows, [2 H, W]."""
    padded = jnp.pad(plane, ((1, 1), (0, 0)), mode="edge")
    above, below = 3 * plane + padded[:-2], 3 * plane + padded[2:]
    return jnp.stack([above, below], 1).reshape(2 * plane.shape[0], -1)

"""Convolution of an image with a kernel that is computed on the device, and the kernels of blurs.

Kernels depend on traced numbers, so one compilation serves all; only their largest radius is static. The product is
taken in the frequency domain: a disc of 45 pixels' radius, for images of 1024x2048, would take 6,000 products a value.
"""

import jax
import jax.numpy as jnp

FULL = jax.lax.Precision.HIGHEST


def convolve(image: jax.Array, kernel: jax.Array, mode: str = "edge") -> jax.Array:
    """Convolve each channel.

    Args:
      image: float32 [H, W, C].
      kernel: float32 [2 R + 1, 2 R + 1], with its centre in the middle.
      mode: of `jnp.pad`, what lies outside: "edge" is SciPy's "nearest", "reflect" its "mirror".
    Returns:
      float32 [H, W, C], to about 1e-6 of the largest value.
    """
    reach = kernel.shape[0] // 2
    padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode=mode)
    size = padded.shape[:2]
    product = jnp.fft.rfft2(padded, axes=(0, 1)) * jnp.fft.rfft2(kernel, size)[..., None]
    # The circular convolution is wrong in its first 2 R rows and columns only, and shifted by R.
    return jnp.fft.irfft2(product, size, axes=(0, 1))[2 * reach :, 2 * reach :]


def gaussian_kernel(sigma: jax.Array, reach: int, truncate: float = 4.0) -> jax.Array:
    """exp(-r^2 / (2 sigma^2)) on a square, normalised; float32 [2 reach + 1, 2 reach + 1].

    Sampled at whole pixels up to int(truncate * sigma + 0.5) on each axis, as `scipy.ndimage.gaussian_filter` does.
    """
    offset = jnp.arange(-reach, reach + 1, dtype=jnp.float32)
    line = jnp.exp(-0.5 * (offset / sigma) ** 2) * (jnp.abs(offset) <= jnp.floor(truncate * sigma + 0.5))
    line /= line.sum()
    return line[:, None] * line


def disc_kernel(radius: jax.Array, reach: int) -> jax.Array:
    """A disc, normalised, with an edge one pixel wide: clip(radius + 1/2 - r, 0, 1); [2 reach + 1, 2 reach + 1]."""
    offset = jnp.arange(-reach, reach + 1, dtype=jnp.float32)
    disc = jnp.clip(radius + 0.5 - jnp.hypot(offset[:, None], offset), 0, 1)
    return disc / disc.sum()


def line_kernel(length: jax.Array, sigma: jax.Array, angle: jax.Array, reach: int) -> jax.Array:
    """Motion along a line, fading like half a Gaussian: exp(-t^2 / (2 sigma^2)) at 0 <= t <= length, normalised.

    ImageMagick's motion blur, of which ImageNet-C's is, has this profile with length = 2 * radius. Here its centroid is
    in the middle, so that what is in the image stays on its label, where ImageMagick's moves by about 0.8 sigma.

    Args:
      length, sigma: pixels.
      angle: radians from the x axis.
      reach: the largest length, rounded up. Samples are half a pixel apart and shared bilinearly between pixels.
    Returns:
      float32 [2 reach + 1, 2 reach + 1].
    """
    t = jnp.arange(2 * reach + 1, dtype=jnp.float32) / 2
    weight = jnp.exp(-0.5 * (t / sigma) ** 2) * (t <= length)
    weight /= weight.sum()
    t -= weight @ t
    offset = jnp.arange(-reach, reach + 1, dtype=jnp.float32)
    rows = jnp.clip(1 - jnp.abs(offset - t[:, None] * jnp.sin(angle)), 0, 1)
    columns = jnp.clip(1 - jnp.abs(offset - t[:, None] * jnp.cos(angle)), 0, 1)
    return jnp.matmul((rows * weight[:, None]).T, columns, precision=FULL)

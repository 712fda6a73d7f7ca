"""Transposed convolution and bilinear resizing."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from segjax.core.sharding import row_parts
from segjax.models.layers.conv import PRODUCT


class ConvTranspose(nn.Module):
    """Transposed convolution without padding.

    output[s*i + a, s*j + b, o] sums x[i, j, c] * kernel[k-1-a, k-1-b, c, o] over i, j, c: the kernel is
    stored as `flax.linen.ConvTranspose` stores it, turned by 180 degrees from PyTorch's and Caffe's.

    Each m x m-th of the kernel, m = ceil(k / s), is a matrix product of the pixels with its s x s taps, and the
    products are added at an offset of so many blocks of s x s output pixels: on CPUs, where the gradient of the plain
    form is far slower, and where m is 1 on all platforms, since XLA for GPUs takes that gradient for a convolution
    whose window is the whole image.

    Attributes:
      features: output channels.
      stride: s, in both directions.
      kernel_size: k >= s, in both directions; s where None.
      use_bias, kernel_init, bias_init, dtype: as in linen. Params: `kernel` [k, k, C, features], `bias`
        [features].
    """

    features: int
    stride: int = 2
    kernel_size: int | None = None
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] to [N, (H-1)*s + k, (W-1)*s + k, features] of `dtype`.

        Raises:
          ValueError: the kernel is smaller than the stride.
        """
        size = self.stride if self.kernel_size is None else self.kernel_size
        if size < self.stride:
            raise ValueError(f"kernel_size must be at least the stride; received {size} and {self.stride}")
        kernel = self.param("kernel", self.kernel_init, (size, size, x.shape[-1], self.features), jnp.float32)
        y = conv_transpose(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(self.dtype)
        return y


def conv_transpose(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """What `ConvTranspose` computes, without the bias.

    x [N, H, W, C] and kernel [k, k, C, O], k at least the stride s, to [N, (H-1)*s + k, (W-1)*s + k, O].
    """

    def plain(x, kernel):
        return jax.lax.conv_transpose(x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def blocks(x, kernel):
        return _conv_transpose_blocks(x, kernel, stride)

    if kernel.shape[0] == stride:
        y = blocks(x, kernel)
    else:
        y = jax.lax.platform_dependent(x, kernel, cpu=blocks, default=plain)
    return checkpoint_name(y, PRODUCT)


def _conv_transpose_blocks(x, kernel, s):
    batch, height, width, _ = x.shape
    k, (channels, features) = kernel.shape[0], kernel.shape[2:]
    m = -(-k // s)
    kernel = kernel[::-1, ::-1]  # as it is laid onto the output
    total = 0.0
    for p in range(m):
        for q in range(m):
            part = kernel[p * s : (p + 1) * s, q * s : (q + 1) * s]
            rows, columns = part.shape[:2]  # the last parts are smaller where s does not divide k
            y = jnp.dot(x, part.transpose(2, 0, 1, 3).reshape(channels, -1))
            y = y.reshape(batch, height, width, rows, columns, features)
            offset = ((0, 0), (p, m - 1 - p), (q, m - 1 - q))
            total = total + jnp.pad(y, (*offset, (0, s - rows), (0, s - columns), (0, 0)))
    blocks = total.transpose(0, 1, 3, 2, 4, 5)
    y = blocks.reshape(batch, (height + m - 1) * s, (width + m - 1) * s, features)
    return y[:, : (height - 1) * s + k, : (width - 1) * s + k]


def bilinear_kernel(size: int, channels: int) -> np.ndarray:
    """Kernel of a transposed convolution that interpolates bilinearly, each channel by itself.

    As in the reference code of Long et al. 2015 (`upsample_filt` in surgery.py): a tent of half width
    ceil(size / 2). With stride s, size 2s - s % 2 interpolates exactly.

    Returns:
      float32 [size, size, channels, channels], zero off the channels' diagonal.
    """
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 == 1 else factor - 0.5
    tent = 1 - np.abs(np.arange(size) - centre) / factor
    return np.einsum("i,j,co->ijco", tent, tent, np.eye(channels)).astype(np.float32)


def bilinear_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """`bilinear_kernel` as an initialiser; shape is (size, size, channels, channels).

    Raises:
      ValueError: the kernel is not square in space and in channels.
    """
    if len(shape) != 4 or shape[0] != shape[1] or shape[2] != shape[3]:
        raise ValueError(f"a bilinear kernel has shape (size, size, channels, channels); received {tuple(shape)}")
    return jnp.asarray(bilinear_kernel(shape[0], shape[2]), dtype)


def resize_bilinear(x: jax.Array, size: tuple[int, int], *, align_corners: bool = False) -> jax.Array:
    """Bilinear resizing without antialiasing, as one small matrix product along each side.

    Args:
      x: floating, [N, H, W, C].
      size: new height and width.
      align_corners: False puts pixel centres at half-integers and extends the edge pixels outwards, as
        OpenCV, PyTorch and `jax.image.resize` with antialias=False do. True lets the centres of the corner
        pixels coincide.

    Returns:
      [N, *size, C] in x's dtype.
    """
    for axis in (1, 2):
        if x.shape[axis] != size[axis - 1]:
            matrix = _interpolation_matrix(x.shape[axis], size[axis - 1], align_corners)
            if axis == 1 and row_parts() > 1:
                x = _mix_rows(matrix, x, row_parts())
                continue
            product = "oh,nhwc->nowc" if axis == 1 else "ow,nhwc->nhoc"
            x = jnp.einsum(product, jnp.asarray(matrix, x.dtype), x, precision=jax.lax.Precision.HIGHEST)
    return x


def _mix_rows(matrix: np.ndarray, x: jax.Array, parts: int) -> jax.Array:
    """matrix [O, H] times the rows of x [N, H, W, C], where these lie in `parts` on as many devices.

    The matrix is a band, so that each part of the result needs the rows of one part of x and the nearest ones of its
    two neighbours. Where the parts are smaller than that, each device sums what all of them give.
    """
    new, old = matrix.shape
    outer, inner = -(-new // parts), -(-old // parts)
    matrix = np.pad(matrix, ((0, outer * parts - new), (0, inner * parts - old)))
    of_part = [np.flatnonzero(rows.any(0)) for rows in np.split(matrix, parts)]
    above = max([0, *(part * inner - used[0] for part, used in enumerate(of_part) if used.size)])
    below = max([0, *(used[-1] + 1 - (part + 1) * inner for part, used in enumerate(of_part) if used.size)])
    if max(above, below) > inner:
        weights = jnp.asarray(matrix[:new, :old], x.dtype)
        return jnp.einsum("oh,nhwc->nowc", weights, x, precision=jax.lax.Precision.HIGHEST)
    wide = np.pad(matrix, ((0, 0), (above, below)))
    bands = [wide[p * outer : (p + 1) * outer, p * inner : (p + 1) * inner + above + below] for p in range(parts)]
    x = jnp.pad(x, ((0, 0), (0, inner * parts - old), (0, 0), (0, 0)))
    x = x.reshape(x.shape[0], parts, inner, *x.shape[2:])
    neighbours = [jnp.roll(x[:, :, inner - above :], 1, axis=1), x, jnp.roll(x[:, :, :below], -1, axis=1)]
    rows = jnp.concatenate(neighbours, axis=2)  # beyond the image those of the other end, whose weight is 0
    bands = jnp.asarray(np.stack(bands), x.dtype)
    y = jnp.einsum("poh,nphwc->npowc", bands, rows, precision=jax.lax.Precision.HIGHEST)
    return y.reshape(y.shape[0], outer * parts, *y.shape[3:])[:, :new]


def _interpolation_matrix(size: int, new_size: int, align_corners: bool) -> np.ndarray:
    """[new_size, size] weights; each row sums to 1."""
    steps = np.arange(new_size)
    if align_corners:
        position = steps * ((size - 1) / (new_size - 1)) if new_size > 1 else np.zeros(1)
    else:
        position = (steps + 0.5) * (size / new_size) - 0.5
    position = np.clip(position, 0, size - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, size - 1)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (steps, low), 1 - (position - low))
    np.add.at(matrix, (steps, high), position - low)
    return matrix

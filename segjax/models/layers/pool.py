"""Max pooling, which has a form of its own on CPUs and GPUs, and adaptive average pooling."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def max_pool(
    x: jax.Array,
    window: tuple[int, int] = (2, 2),
    strides: tuple[int, int] | None = None,
    padding: str | int = "VALID",
) -> jax.Array:
    """Maximum over windows of an image.

    Args:
      x: floating, [N, H, W, C].
      window: height and width of the window.
      strides: step from one window to the next; `window` where None.
      padding: "VALID" leaves out the rows and columns that do not fill a window (PyTorch's default), "CEIL"
        lets the last window hang over the bottom and right edge (Caffe, PyTorch's ceil_mode), "SAME" pads
        both sides as TensorFlow does; a number pads every side by it (PyTorch's padding=1 for ResNet's 3x3).
        What is padded never wins.

    Returns:
      [N, H', W', C] in x's dtype. Where several values of a window are equal the gradient goes to the first
      in row-major order, as in PyTorch. A NaN in a window makes its maximum NaN.

    Raises:
      ValueError: unknown padding.
    """
    strides = window if strides is None else strides
    if isinstance(padding, int):
        pads = ((padding, padding), (padding, padding))
    elif padding == "CEIL":
        pads = _pads_of_last_windows(x.shape[1:3], window, strides)
    elif padding in ("VALID", "SAME"):
        pads = jax.lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    else:
        raise ValueError(f"padding must be 'VALID', 'CEIL', 'SAME' or a number; received {padding!r}")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)

    def separable(x):
        return _separable_max_pool(x, window, strides)

    def plain(x):
        return nn.max_pool(x, window, strides, "VALID")

    return jax.lax.platform_dependent(x, cpu=separable, cuda=separable, rocm=separable, default=plain)


def _separable_max_pool(x, window, strides):
    """Without padding. Columns first, so that of equal values the first in row-major order is taken.

    The gradient of a window reduction is a scatter, which XLA runs on one core of a CPU, and on a GPU adds up in an
    order that changes from run to run; that of a choice is a product.
    """
    for axis in (2, 1):
        size, k, step = x.shape[axis], window[axis - 1], strides[axis - 1]
        starts = max(size - k + 1, 0)  # where a window may start
        shifted = [jax.lax.slice_in_dim(x, min(i, size), min(i + starts, size), step, axis) for i in range(k)]
        x = functools.reduce(_first_maximum, shifted)
    return x


def _first_maximum(a, b):
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def _pads_of_last_windows(sizes, window, strides):
    pads = []
    for size, k, s in zip(sizes, window, strides, strict=True):
        count = max(-(-(size - k) // s) + 1, 1)
        if (count - 1) * s >= size:  # a window must start inside the image
            count -= 1
        pads.append((0, max((count - 1) * s + k - size, 0)))
    return pads


def adaptive_average_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Mean over a grid of cells that covers the image, as one small matrix product along each side.

    Cell i of n covers the rows floor(i * H / n) to ceil((i + 1) * H / n) - 1, so cells share rows where n does not
    divide H (and repeat them where n > H), as in PyTorch's adaptive_avg_pool2d.

    Args:
      x: floating, [N, H, W, C].
      size: rows and columns of the grid.

    Returns:
      [N, *size, C] in x's dtype; the sums are float32.
    """
    y = x.astype(jnp.float32)
    for axis, product in ((1, "oh,nhwc->nowc"), (2, "ow,nhwc->nhoc")):
        matrix = jnp.asarray(_cell_matrix(x.shape[axis], size[axis - 1]), jnp.float32)
        y = jnp.einsum(product, matrix, y, precision=jax.lax.Precision.HIGHEST)
    return y.astype(x.dtype)


def _cell_matrix(size: int, cells: int) -> np.ndarray:
    """[cells, size] weights; each row is 1 / length on the pixels of its cell."""
    index, pixel = np.arange(cells)[:, None], np.arange(size)
    inside = (pixel >= index * size // cells) & (pixel < -(-(index + 1) * size // cells))
    return inside / inside.sum(1, keepdims=True)

"""2x2 max pooling that remembers where each maximum was, and the unpooling that puts values back there.

Badrinarayanan et al. 2017, section 3. Equal to PyTorch's `max_pool2d(x, 2, 2, return_indices=True)` and
`max_unpool2d(..., output_size=size)`, but what is remembered is the place inside the window, 2 bits as in the
paper's section 3, and not the index in the whole image. So neither function and no gradient needs a scatter, and
each is the gradient of the other: the gradient of pooling unpools, that of unpooling picks the remembered places.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

PLACES = np.arange(4, dtype=np.uint8).reshape(2, 1, 2, 1)
"""0 1 over 2 3: the numbers of a window's pixels, in row-major order, as the axes [2, W', 2, C] see them."""


def max_pool_with_places(x: jax.Array, padding: str = "VALID") -> tuple[jax.Array, jax.Array]:
    """Maximum of each 2x2 window with stride 2, and its place.

    Args:
      x: floating, [N, H, W, C].
      padding: "VALID" leaves a last odd row or column out (PyTorch's default), "CEIL" pools it by itself (Caffe,
        PyTorch's ceil_mode).

    Returns:
      (maximum [N, H', W', C] in x's dtype, place uint8 [N, H', W', C]): place 2 * i + j is row i and column j of the
      window. Of equal values the first in row-major order counts. A NaN in a window makes its maximum NaN.

    Raises:
      ValueError: unknown padding.
    """
    height, width = x.shape[1:3]
    if padding == "CEIL":
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=-jnp.inf)
    elif padding == "VALID":
        x = x[:, : height // 2 * 2, : width // 2 * 2]
    else:
        raise ValueError(f"padding must be 'VALID' or 'CEIL'; received {padding!r}")
    return _pool(x)


def max_unpool(x: jax.Array, place: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Each value at the place of its window's maximum, zeros elsewhere.

    Args:
      x: floating, [N, H', W', C].
      place: uint8 [N, H', W', C], of `max_pool_with_places`.
      size: (H, W) of what was pooled.

    Returns:
      [N, H, W, C] in x's dtype.

    Raises:
      ValueError: a size that is not pooled to H' and W'.
    """
    (height, width), pooled = size, x.shape[1:3]
    if any(length not in (2 * p - 1, 2 * p, 2 * p + 1) for length, p in zip(size, pooled, strict=True)):
        raise ValueError(f"size must be one that 2x2 pooling makes {tuple(pooled)} of; received {tuple(size)}")
    x = _unpool(x, place)[:, :height, :width]
    return jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0)))


@jax.custom_vjp
def _pool(x):
    rows, column = _larger(x[:, :, 0::2], x[:, :, 1::2])
    value, row = _larger(rows[:, 0::2], rows[:, 1::2])
    column = jnp.where(row == 0, column[:, 0::2], column[:, 1::2])
    return value, 2 * row + column


def _larger(a, b):
    first = (a >= b) | jnp.isnan(a)
    return jnp.where(first, a, b), jnp.where(first, 0, 1).astype(jnp.uint8)


@jax.custom_vjp
def _unpool(x, place):
    count, height, width, channels = x.shape
    windows = jnp.where(place[:, :, None, :, None] == PLACES, x[:, :, None, :, None], 0)
    return windows.reshape(count, 2 * height, 2 * width, channels)


def _pick(x, place):
    """What x [N, 2H', 2W', C] has at the places: [N, H', W', C]."""
    corners = [x[:, i::2, j::2] for i in range(2) for j in range(2)]
    return functools.reduce(jnp.add, [jnp.where(place == k, corner, 0) for k, corner in enumerate(corners)])


def _pool_forward(x):
    value, place = _pool(x)
    return (value, place), place


def _pool_backward(place, gradients):
    return (_unpool(gradients[0], place),)


def _unpool_forward(x, place):
    return _unpool(x, place), place


def _unpool_backward(place, gradient):
    # A place is an integer, so its tangent has JAX's type for "no gradient".
    return _pick(gradient, place), np.zeros(place.shape, jax.dtypes.float0)


_pool.defvjp(_pool_forward, _pool_backward)
_unpool.defvjp(_unpool_forward, _unpool_backward)

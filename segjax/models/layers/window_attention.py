"""Self-attention within windows (Liu et al. 2021, "Swin Transformer", ICCV, arXiv:2103.14030, section 3.2)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.layers.attention import attention, keep_map, weights
from segjax.models.layers.pad import pad_image
from segjax.models.layers.transformer import KERNEL_INIT, Dense

LARGEST_MAP = 2**20
"""Weights of one head and example up to which the map of all pixels, zero beyond each one's window, is offered."""


class WindowAttention(nn.Module):
    """Multi-head self-attention of the pixels in each window, with a bias that is learnt for each relative position.

    Features whose sides are no multiples of the window are padded with zeros at the bottom and the right, and cropped
    again. As in the reference code the padding takes part like any other pixel.

    Params: dense layers `query`, `key`, `value` and `projection`, and `bias_table` float32 [heads, (2 window - 1)^2],
    B^ of equation 4, row by row.

    Attributes:
      window: rows and columns of a window.
      head_dim: channels of a head, which must divide those of the features.
      shift: the windows start so many rows and columns later (section 3.2, figures 2 and 4). The image is rolled for
        that, and pixels from opposite ends of it, which meet in a window, do not see one another.
      attend: False gives all pixels of a window that may be seen the same weight, whatever queries, keys and
        positions are: a network of equal parameters without attention.
      dtype: compute dtype; scores and softmax are float32.
    """

    window: int
    head_dim: int
    shift: int = 0
    attend: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C], any H and W >= 1, to the same shape, of `dtype`.

        Offers its weights as the map `window` [N, heads, H, W, H, W] where they are no more than LARGEST_MAP; those
        on the padding are left out of it.
        """
        height, width, channels = x.shape[1:]
        heads = channels // self.head_dim
        x = pad_image(x.astype(self.dtype), self.window)
        padded = x.shape[1:3]
        x = split(jnp.roll(x, (-self.shift, -self.shift), (1, 2)), self.window)

        def dense(name):
            return Dense(channels, dtype=self.dtype, name=name)

        query, key, value = (
            dense(name)(x).reshape(*x.shape[:-1], heads, self.head_dim) for name in ("query", "key", "value")
        )
        positions = (heads, (2 * self.window - 1) ** 2)
        table = self.param("bias_table", KERNEL_INIT, positions, jnp.float32)
        bias = table[None, :, _relative_positions(self.window)]
        if not self.attend:
            query, bias = jnp.zeros_like(query), jnp.zeros_like(bias)
        if self.shift:
            region = jnp.asarray(_regions(padded, self.window, self.shift))
            bias = jnp.where(region[:, None, :, None] == region[:, None, None, :], bias, -jnp.inf)

        def dense_map():
            found = jax.vmap(lambda q, k: weights(q, k, bias, scale=self.head_dim**-0.5))(query, key)
            return _of_all_pixels(found, padded, self.window, self.shift, (height, width))

        if (height * width) ** 2 <= LARGEST_MAP:
            keep_map(self, "window", dense_map)
        # The examples of a batch share the bias, which is as large as the weights of one.
        y = jax.vmap(lambda q, k, v: attention(q, k, v, bias))(query, key, value)
        y = merge(dense("projection")(y.reshape(x.shape)), padded, self.window)
        return jnp.roll(y, (self.shift, self.shift), (1, 2))[:, :height, :width]


def split(x: jax.Array, window: int) -> jax.Array:
    """[N, H, W, C] to [N, windows, window * window, C], row by row; `window` divides H and W."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, window * window, channels)


def merge(x: jax.Array, size: tuple[int, int], window: int) -> jax.Array:
    """The inverse of `split`: [N, windows, window * window, C] to [N, *size, C]."""
    height, width = size
    x = x.reshape(x.shape[0], height // window, width // window, window, window, -1)
    return x.swapaxes(2, 3).reshape(x.shape[0], height, width, -1)


def _relative_positions(window: int) -> np.ndarray:
    """Column of `bias_table` for each query and key of a window: [window^2, window^2]."""
    row, column = (axis.ravel() for axis in np.indices((window, window)))
    rows, columns = (axis[:, None] - axis + window - 1 for axis in (row, column))
    return rows * (2 * window - 1) + columns


def _regions(size: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """A number for each pixel of the rolled image, by window: those of one number were neighbours before.

    Only the last windows hold several: the last `shift` rows and columns come from the other end.
    """
    row, column = (np.arange(length) >= length - shift for length in size)
    return split((2 * row[:, None] + column).astype(np.int32)[None, :, :, None], window)[0, :, :, 0]


def _of_all_pixels(found, padded, window, shift, size):
    """Weights by window [N, windows, heads, L, L] to [N, heads, H, W, H, W], without those on the padding."""
    batch, _, heads = found.shape[:3]
    rows, columns = (length // window for length in padded)
    found = found.reshape(batch, rows, columns, heads, window, window, window, window)
    found = jnp.einsum("nrchijkl,rs,ct->nhricjsktl", found, jnp.eye(rows), jnp.eye(columns))
    found = jnp.roll(found.reshape(batch, heads, *padded, *padded), (shift,) * 4, (2, 3, 4, 5))
    height, width = size
    found = found[:, :, :height, :width, :height, :width]
    return found / found.sum((-2, -1), keepdims=True)

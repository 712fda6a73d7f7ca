"""Max pooling. The 2x2 window with stride 2 has a form of its own on CPUs, the rest is linen's."""

import flax.linen as nn
import jax
import jax.numpy as jnp


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
        pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        x, padding = jnp.pad(x, pads, constant_values=-jnp.inf), "VALID"
    elif padding == "CEIL":
        x = _fill_last_windows(x, window, strides)
    elif padding not in ("VALID", "SAME"):
        raise ValueError(f"padding must be 'VALID', 'CEIL', 'SAME' or a number; received {padding!r}")
    same = "SAME" if padding == "SAME" else "VALID"
    if tuple(window) == tuple(strides) == (2, 2) and same == "VALID":
        return jax.lax.platform_dependent(x, cpu=_max_pool_2x2, default=_plain_2x2)
    return nn.max_pool(x, window, strides, same)


def _plain_2x2(x):
    return nn.max_pool(x, (2, 2), (2, 2), "VALID")


def _max_pool_2x2(x):
    # The gradient of a window reduction is a scatter, which XLA runs on one core; that of a choice is a
    # product.
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = x[:, :height, :width]
    rows = _first_maximum(x[:, :, 0::2], x[:, :, 1::2])
    return _first_maximum(rows[:, 0::2], rows[:, 1::2])


def _first_maximum(a, b):
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def _fill_last_windows(x, window, strides):
    pads = []
    for size, k, s in zip(x.shape[1:3], window, strides, strict=True):
        count = max(-(-(size - k) // s) + 1, 1)
        if (count - 1) * s >= size:  # a window must start inside the image
            count -= 1
        pads.append((0, max((count - 1) * s + k - size, 0)))
    return jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-jnp.inf)

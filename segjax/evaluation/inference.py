"""From a model to class probabilities of an image: whole or by a sliding window, at several scales, mirrored.

Everything is of static shape and runs inside one jitted program. Overlapping windows, scales and mirrored images
are averaged as probabilities (after the softmax), with equal weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Apply = Callable[[Any, jax.Array], jax.Array]


def build_predict(
    apply: Apply,
    *,
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Apply:
    """Build `predict(variables, image) -> probabilities`.

    Args:
      apply: (variables, image float32 [N, H, W, 3]) -> logits float32 [N, H, W, C].
      window: (height, width) of the sliding window, or None for the whole image.
      stride: step of the window; None is two thirds of it, as in Zhao et al. 2017 (PSPNet).
      scales: the image is resized bilinearly to each, and the probabilities back.
      flip: average with the mirrored image.
    Returns:
      A function of image [N, H, W, 3] with probabilities float32 [N, H, W, C] that sum to 1.
    Raises:
      ValueError: a stride larger than the window, which would leave pixels out; no scales.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be one or more numbers above 0; received {scales}")
    if window is not None:
        stride = stride or tuple(max(1, 2 * length // 3) for length in window)
        if any(s < 1 or s > w for s, w in zip(stride, window, strict=True)):
            raise ValueError(f"stride must be in 1..window = {window}, so that no pixel is left out; received {stride}")

    def at_one_size(variables, image):
        if window is None:
            return jax.nn.softmax(apply(variables, image))
        return slide(lambda crop: jax.nn.softmax(apply(variables, crop)), image, window, stride)

    def predict(variables, image):
        height, width = image.shape[1:3]
        total, count = 0.0, 0
        for scale in scales:
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            scaled = image if size == (height, width) else resize(image, size)
            for mirrored in (False, True)[: 1 + flip]:
                probabilities = at_one_size(variables, scaled[:, :, ::-1] if mirrored else scaled)
                probabilities = probabilities[:, :, ::-1] if mirrored else probabilities
                total += probabilities if size == (height, width) else resize(probabilities, (height, width))
                count += 1
        return total / count

    return predict


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear with half-pixel centres and no antialiasing: [N, H, W, C] -> [N, *size, C]."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis: every `stride`, the last one moved back to the border."""
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def slide(
    probabilities_of: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    window: tuple[int, int],
    stride: tuple[int, int],
) -> jax.Array:
    """Mean over all windows that cover a pixel; an image smaller than the window is padded with zeros and cut.

    Args:
      probabilities_of: [N, *window, 3] -> [N, *window, C].
      image: float32 [N, H, W, 3].
    Returns:
      float32 [N, H, W, C].
    """
    count, height, width, channels = image.shape
    padded = jnp.pad(image, ((0, 0), (0, max(0, window[0] - height)), (0, max(0, window[1] - width)), (0, 0)))
    rows = window_starts(padded.shape[1], window[0], stride[0])
    columns = window_starts(padded.shape[2], window[1], stride[1])
    starts = jnp.array([(row, column) for row in rows for column in columns])
    num_classes = jax.eval_shape(probabilities_of, jnp.zeros((count, *window, channels))).shape[-1]

    def body(carry, start):
        total, times = carry
        at = (0, start[0], start[1], 0)
        crop = jax.lax.dynamic_slice(padded, at, (count, *window, channels))
        old = jax.lax.dynamic_slice(total, at, (count, *window, num_classes))
        total = jax.lax.dynamic_update_slice(total, old + probabilities_of(crop), at)
        old = jax.lax.dynamic_slice(times, start, window)
        times = jax.lax.dynamic_update_slice(times, old + 1.0, start)
        return (total, times), None

    empty = (jnp.zeros((*padded.shape[:3], num_classes)), jnp.zeros(padded.shape[1:3]))
    (total, times), _ = jax.lax.scan(body, empty, starts)
    return (total / times[None, :, :, None])[:, :height, :width]

"""From a model to class probabilities of an image: whole, by a window or by tiles, at several scales, mirrored.

Everything is of static shape and runs inside one jitted program. Overlapping windows, scales and mirrored images
are averaged as probabilities (after the softmax), with equal weights. What is resized before is the logits, as in
DeepLab's code and mmsegmentation's.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.core.softmax import softmax

Apply = Callable[[Any, jax.Array], jax.Array]


def build_predict(
    apply: Apply,
    *,
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    tile_input: tuple[int, int] | None = None,
    window_blend: str = "uniform",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    short_side: int = 0,
    long_side: int = 0,
    resize_multiple: int = 1,
    align_corners: bool = False,
) -> Apply:
    """Build `predict(variables, image) -> probabilities`.

    Args:
      apply: (variables, image float32 [N, H, W, 3]) -> logits float32 [N, H, W, C].
      window: (height, width) of the sliding window, or None for the whole image.
      stride: step of the window; None is two thirds of it, as in Zhao et al. 2017 (PSPNet).
      tile_input: None, or what makes windows the tiles of `overlap_tile`, which have no stride: the (height, width)
        of the input from which apply, a network without padding, computes a window or more around its centre.
      window_blend: "uniform", or "gaussian", see `slide`.
      scales: the image is resized bilinearly to each, and the logits back, or the windows' averaged probabilities.
      flip: average with the mirrored image.
      short_side, long_side, resize_multiple: the size at scale 1, see `network_size`.
      align_corners: of all resizing.
    Returns:
      A function of image [N, H, W, 3] with probabilities float32 [N, H, W, C] that sum to 1.
    Raises:
      ValueError: a stride larger than the window, which would leave pixels out; a tile_input without a window
        or with a stride; no scales.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be one or more numbers above 0; received {scales}")
    if tile_input is not None and (window is None or stride is not None):
        raise ValueError(f"tiles need a window and have no stride; received window {window} and stride {stride}")
    if window is not None:
        stride = stride or tuple(max(1, 2 * length // 3) for length in window)
        if any(s < 1 or s > w for s, w in zip(stride, window, strict=True)):
            raise ValueError(f"stride must be in 1..window = {window}, so that no pixel is left out; received {stride}")

    def at_one_size(variables, image, size):
        if window is None:
            return softmax(resize(apply(variables, image), size, align_corners))
        if tile_input is not None:
            logits = overlap_tile(lambda x: apply(variables, x), image, window, tile_input)
            return softmax(resize(logits, size, align_corners))
        blend = gaussian_weights(window) if window_blend == "gaussian" else None
        averaged = slide(lambda crop: softmax(apply(variables, crop)), image, window, stride, blend)
        return resize(averaged, size, align_corners)

    def predict(variables, image):
        total, count = 0.0, 0
        for scale in scales:
            size = network_size(image.shape[1:3], scale, short_side, long_side, resize_multiple)
            scaled = resize(image, size, align_corners)
            for mirrored in (False, True)[: 1 + flip]:
                probabilities = at_one_size(variables, scaled[:, :, ::-1] if mirrored else scaled, image.shape[1:3])
                total += probabilities[:, :, ::-1] if mirrored else probabilities
                count += 1
        return total / count

    return predict


def network_size(
    size: tuple[int, int], scale: float = 1.0, short_side: int = 0, long_side: int = 0, multiple: int = 1
) -> tuple[int, int]:
    """(height, width) at which the network sees an image of this size.

    The largest that keeps the ratio, with a shorter side of short_side and a longer one of long_side at most, 0 being
    no limit (the limits times the scale, as in mmsegmentation's test-time augmentation); without limits the image's
    own times the scale. Halves are rounded up. Then each side is taken up to the multiple.
    """
    limits = [limit * scale / side for limit, side in ((short_side, min(size)), (long_side, max(size))) if limit]
    factor = min(limits) if limits else scale
    return tuple(-(-max(1, math.floor(length * factor + 0.5)) // multiple) * multiple for length in size)


def resize(x: jax.Array, size: tuple[int, int], align_corners: bool = False) -> jax.Array:
    """Bilinear without antialiasing: [N, H, W, C] -> [N, *size, C].

    Pixel centres are at half pixels, or, with align_corners, those of the corner pixels lie on each other.
    """
    if x.shape[1:3] == tuple(size):
        return x
    shape = (x.shape[0], *size, x.shape[3])
    if not align_corners:
        return jax.image.resize(x, shape, "bilinear", antialias=False)
    # The centre of pixel i, at i + 1/2, goes to i (new - 1) / (old - 1) + 1/2. Of one pixel there is no distance: it is
    # spread over all, and of several the first one becomes one.
    sides = list(zip(size, x.shape[1:3], strict=True))
    scale = np.array([(new - 1) / (old - 1) if min(new, old) > 1 else max(1, new / old) for new, old in sides])
    shift = np.array([0.5 - 0.5 * s if min(side) > 1 else 0.0 for s, side in zip(scale, sides, strict=True)])
    return jax.image.scale_and_translate(
        x, shape, (1, 2), jnp.asarray(scale, jnp.float32), jnp.asarray(shift, jnp.float32), "linear", antialias=False
    )


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
    weights: np.ndarray | None = None,
) -> jax.Array:
    """Mean over all windows that cover a pixel; an image smaller than the window is padded with zeros and cut.

    Args:
      probabilities_of: [N, *window, 3] -> [N, *window, C].
      image: float32 [N, H, W, 3].
      weights: float32 [*window] above 0, of a window's pixels in the mean; None weighs all alike.
    Returns:
      float32 [N, H, W, C].
    """
    count, height, width, channels = image.shape
    padded = jnp.pad(image, ((0, 0), (0, max(0, window[0] - height)), (0, max(0, window[1] - width)), (0, 0)))
    rows = window_starts(padded.shape[1], window[0], stride[0])
    columns = window_starts(padded.shape[2], window[1], stride[1])
    starts = jnp.array([(row, column) for row in rows for column in columns])
    weight = jnp.ones(window) if weights is None else jnp.asarray(weights, jnp.float32)
    num_classes = jax.eval_shape(probabilities_of, jnp.zeros((count, *window, channels))).shape[-1]

    def body(carry, start):
        total, times = carry
        at = (0, start[0], start[1], 0)
        crop = jax.lax.dynamic_slice(padded, at, (count, *window, channels))
        old = jax.lax.dynamic_slice(total, at, (count, *window, num_classes))
        total = jax.lax.dynamic_update_slice(total, old + weight[:, :, None] * probabilities_of(crop), at)
        old = jax.lax.dynamic_slice(times, start, window)
        times = jax.lax.dynamic_update_slice(times, old + weight, start)
        return (total, times), None

    empty = (jnp.zeros((*padded.shape[:3], num_classes)), jnp.zeros(padded.shape[1:3]))
    (total, times), _ = jax.lax.scan(body, empty, starts)
    return (total / times[None, :, :, None])[:, :height, :width]


def gaussian_weights(window: tuple[int, int]) -> np.ndarray:
    """float32 [*window], 1 at the centre: a Gaussian whose standard deviation is an eighth of each side.

    As in nnU-Net (Isensee et al. 2021): a window is least sure at its edges. Nowhere below 1e-3, so that no pixel is
    divided by next to nothing.
    """
    rows, columns = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window)
    return np.maximum(rows[:, None] * columns / (rows.max() * columns.max()), 1e-3).astype(np.float32)


def overlap_tile(
    logits_of: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    window: tuple[int, int],
    tile_input: tuple[int, int],
) -> jax.Array:
    """Each tile of the logits from its surroundings (Ronneberger et al. 2015, section 2 and figure 2).

    Tiles lie side by side, each pixel in one of them. The surroundings are the image, mirrored at its edges, its
    border pixels not repeated. One tile is computed at a time, so that the network's memory is that of a tile. The
    result is that of the whole mirrored image where `window` is a multiple of the network's stride (2**depth for
    U-Net): then its poolings meet the same pixels in each tile.

    Args:
      logits_of: a network without padding, [N, *tile_input, 3] -> [N, h, w, C] with h and w at least those of the
        window: the logits of the input's middle, a whole pixel towards the top left where it is odd.
      image: float32 [N, H, W, 3].
      window: (height, width) of a tile.
    Returns:
      float32 [N, H, W, C].
    """
    count, height, width, channels = image.shape
    output = jax.eval_shape(logits_of, jax.ShapeDtypeStruct((count, *tile_input, channels), image.dtype))
    if any(have < want for have, want in zip(output.shape[1:3], window, strict=True)):
        raise ValueError(f"an input of {tile_input} must give logits of {window} or more; it gives {output.shape[1:3]}")
    tiles = [-(-length // step) for length, step in zip((height, width), window, strict=True)]
    rows, columns = (
        _mirrored(length, (entering - leaving) // 2, (number - 1) * step + entering)
        for length, entering, leaving, number, step in zip(
            (height, width), tile_input, output.shape[1:3], tiles, window, strict=True
        )
    )

    def body(total, start):
        crop = jnp.take(image, jax.lax.dynamic_slice_in_dim(rows, start[0], tile_input[0]), axis=1)
        crop = jnp.take(crop, jax.lax.dynamic_slice_in_dim(columns, start[1], tile_input[1]), axis=2)
        logits = logits_of(crop)[:, : window[0], : window[1]]
        return jax.lax.dynamic_update_slice(total, logits, (0, start[0], start[1], 0)), None

    size = [number * step for number, step in zip(tiles, window, strict=True)]
    starts = np.stack(np.meshgrid(*(np.arange(0, s, step) for s, step in zip(size, window, strict=True))), -1)
    empty = jnp.zeros((count, *size, output.shape[3]), output.dtype)
    total, _ = jax.lax.scan(body, empty, jnp.asarray(starts.reshape(-1, 2)))
    return total[:, :height, :width]


def _mirrored(length: int, before: int, total: int) -> jax.Array:
    """int32 [total]: the pixels 0..length-1 from `before` pixels in front of them on, mirrored as often as needed."""
    return jnp.asarray(np.pad(np.arange(length), (before, total - before - length), mode="reflect"), jnp.int32)

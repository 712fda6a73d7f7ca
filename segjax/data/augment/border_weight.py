"""U-Net's border weight: the pixels between two neighbouring objects count for more in the loss.

Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, arXiv:1505.04597, section 3, equation 2:

    w(x) = w_c(x) + w_0 exp(-(d_1(x) + d_2(x))^2 / (2 sigma^2)),    w_0 = 10, sigma = about 5 pixels

with d_1 and d_2 the distances of x to the borders of the nearest and of the second nearest cell. Here is the second
summand; the first, which balances the classes, is `class_weights` of the losses.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from segjax.core.batch import IGNORE_LABEL

REACH = 5.0
"""In units of sigma: a weight with d_1 + d_2 beyond is set to 0. It would be below w_0 exp(-12.5) = 4e-6 w_0."""


def add_border_weight(
    example: Mapping[str, Any], *, w0: float, sigma: float, object_classes: Sequence[int]
) -> dict[str, Any]:
    """The example with `weight`, float32 like its `label`, of which each frame is weighted by itself.

    A transform as those of `segjax.data.augment.transforms`, after the last that moves pixels; it draws no random
    number.
    """
    label = example["label"]
    frames = [border_weight(frame, w0, sigma, object_classes) for frame in label.reshape(-1, *label.shape[-2:])]
    return {**example, "weight": np.stack(frames).reshape(label.shape)}


def border_weight(
    label: np.ndarray, w0: float = 10.0, sigma: float = 5.0, object_classes: Sequence[int] = ()
) -> np.ndarray:
    """w_0 exp(-(d_1 + d_2)^2 / (2 sigma^2)) at every labelled pixel, within cells as between them.

    An object is a connected component (over the four sides of a pixel) of one of the classes. Its border are those
    of its pixels that have a labelled pixel outside of the object on one of their four sides: where the edge of the
    label or unlabelled pixels cut an object, it may go on, and has no border. Distances are Euclidean, in pixels,
    from centre to centre of pixels, so a border pixel is 0 from its own object and a wall that is one pixel wide
    is 1 from each of two. (The paper says neither what a border pixel is nor how cells are connected.)

    Each object's nearest border is sought along the columns first and then along the rows, among the two nearest
    different objects of every column: the two nearest of all are among them. One core takes 13 ms for 256x256 pixels
    and 70 for 512x512, with 136 objects in the latter.

    Args:
      label: uint8 [H, W], classes or IGNORE_LABEL.
      w0: the weight at d_1 = d_2 = 0, as on the border of two objects of different classes that touch.
      sigma: in pixels, above 0.
      object_classes: the classes whose components are objects; empty for all but class 0, the background.
    Returns:
      float32 [H, W], in 0..w0: 0 where there are fewer than two objects near, and at unlabelled pixels.
    """
    objects, count = _components(label, object_classes)
    if count < 2:
        return np.zeros(label.shape, np.float32)
    reach = math.ceil(REACH * sigma)
    # A key is a squared distance and, in its lowest bits, an object: comparing keys compares distances.
    bits = count.bit_length()
    far = (reach**2 + 1) << bits
    dtype = np.int32 if far + (reach**2 << bits) < 2**31 else np.int64
    nearest = np.where(_border(objects, label != IGNORE_LABEL), objects, far).astype(dtype)
    second = np.full_like(nearest, far)
    for _ in range(2):
        nearest, second = _two_nearest(nearest, second, reach, bits)
        nearest, second = np.ascontiguousarray(nearest.T), np.ascontiguousarray(second.T)
    distance = np.sqrt(nearest >> bits, dtype=np.float32) + np.sqrt(second >> bits, dtype=np.float32)
    weight = np.float32(w0) * np.exp(np.square(distance) / np.float32(-2 * sigma**2))
    weight[(distance > REACH * sigma) | (label == IGNORE_LABEL)] = 0.0
    return weight


def _components(label: np.ndarray, object_classes: Sequence[int]) -> tuple[np.ndarray, int]:
    """(int32 [H, W] with the objects numbered from 1 and 0 elsewhere, how many there are)."""
    classes = object_classes or [value for value in np.unique(label).tolist() if value not in (0, IGNORE_LABEL)]
    objects, count = np.zeros(label.shape, np.int32), 0
    for value in classes:
        found, number = ndimage.label(label == value)
        objects += np.where(found > 0, found + count, 0)
        count += number
    return objects, count


def _border(objects: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels of an object beside a labelled pixel that is not of it."""
    border = np.zeros(objects.shape, bool)
    for axis in (0, 1):
        first, last = [slice(None)] * 2, [slice(None)] * 2
        first[axis], last[axis] = slice(None, -1), slice(1, None)
        for here, there in ((tuple(first), tuple(last)), (tuple(last), tuple(first))):
            border[here] |= (objects[here] != objects[there]) & known[there]
    return border & (objects > 0)


def _two_nearest(nearest: np.ndarray, second: np.ndarray, reach: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The keys of the two nearest different objects that are found by moving along the first axis, [H, W] each."""
    height, numbers = nearest.shape[0], (1 << bits) - 1
    shifts = [
        (slice(max(0, -shift), height - max(0, shift)), slice(max(0, shift), height - max(0, -shift)), shift**2 << bits)
        for shift in range(-min(reach, height - 1), min(reach, height - 1) + 1)
    ]
    best = nearest.copy()
    for here, there, cost in shifts:
        np.minimum(best[here], nearest[there] + cost, out=best[here])
    # The second nearest object is, in its own column, the nearest or the next after the overall nearest.
    runner_up = np.full_like(second, np.iinfo(second.dtype).max)
    theirs, taken = nearest & numbers, best & numbers
    for here, there, cost in shifts:
        other = np.where(theirs[there] == taken[here], second[there], nearest[there])
        np.minimum(runner_up[here], other + cost, out=runner_up[here])
    return best, runner_up

"""Reading an image between its pixels, in NumPy, and the smooth displacements of an elastic deformation."""

from functools import lru_cache

import numpy as np

_WARP_ROWS = 16


def bilinear(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sample [H, W, 3] at points within its pixels' centres.

    Channel by channel and a few rows at a time, so that what is worked on stays in the cache: about 5 ms for
    360x480, where scipy.ndimage.map_coordinates takes 16 to 21.
    """
    width = image.shape[1]
    planes = [np.pad(image[..., c], ((0, 1), (0, 1)), mode="edge").astype(np.float32).ravel() for c in range(3)]
    rounding = np.float32(0.5 if image.dtype == np.uint8 else 0.0)
    out = np.empty((*y.shape, 3), image.dtype)
    for start in range(0, y.shape[0], _WARP_ROWS):
        rows = slice(start, start + _WARP_ROWS)
        top, left = y[rows].astype(np.intp), x[rows].astype(np.intp)
        part_y, part_x = (y[rows] - top).astype(np.float32), (x[rows] - left).astype(np.float32)
        corner = top * (width + 1) + left
        corners = corner, corner + 1, corner + width + 1, corner + width + 2
        for c, plane in enumerate(planes):
            upper, upper_right, lower, lower_right = (plane.take(index) for index in corners)
            upper += (upper_right - upper) * part_x
            lower += (lower_right - lower) * part_x
            upper += (lower - upper) * part_y
            out[rows, :, c] = upper + rounding
    return out


@lru_cache(maxsize=64)
def cubic_weights(length: int, points: int = 3) -> np.ndarray:
    """float32 [length, points]: cubic convolution of `points` values, the outer ones at the end pixels."""
    place = np.linspace(0, points - 1, length)
    base = np.floor(place).astype(int)
    weights = np.zeros((length, points))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(place - (base + offset))
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        value = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(weights, (np.arange(length), (base + offset).clip(0, points - 1)), value)
    weights = weights.astype(np.float32)
    weights.setflags(write=False)
    return weights

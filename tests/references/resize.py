"""Slow, obvious resizing at half-pixel centres."""

import numpy as np


def nearest_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W] -> [height, width]: the input pixel that holds the centre of each output pixel."""
    out = np.zeros(size, label.dtype)
    for y in range(size[0]):
        for x in range(size[1]):
            row = int((y + 0.5) * label.shape[0] / size[0])
            column = int((x + 0.5) * label.shape[1] / size[1])
            out[y, x] = label[row, column]
    return out


def antialiased_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W, C] -> float64 [height, width, C]: a triangle filter, two output pixels wide when reducing."""
    for axis, count in enumerate(size):
        old = image.shape[axis]
        scale = max(old / count, 1.0)
        weights = np.zeros((count, old))
        for i in range(count):
            centre = (i + 0.5) * old / count
            for j in range(old):
                weights[i, j] = max(0.0, 1 - abs(j + 0.5 - centre) / scale)
            weights[i] /= weights[i].sum()
        image = np.moveaxis(np.tensordot(weights, image.astype(np.float64), (1, axis)), 0, axis)
    return image

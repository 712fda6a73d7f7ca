"""Slow, obvious versions of the image operations: loops over pixels, in float64."""

import math

import numpy as np


def bilinear_at(image, y, x):
    """The value of [H, W, 3] at (y, x), in pixels from the first pixel's centre, the border repeated."""
    height, width = image.shape[:2]
    value = np.zeros(3)
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            share = (1 - abs(y - i)) * (1 - abs(x - j))
            value += share * image[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
    return value


def resize_bilinear(image, size):
    """Half-pixel centres, no antialiasing."""
    height, width = image.shape[:2]
    out = np.zeros((*size, 3))
    for i, j in np.ndindex(*size):
        out[i, j] = bilinear_at(image, (i + 0.5) * height / size[0] - 0.5, (j + 0.5) * width / size[1] - 0.5)
    return out


def resize_triangle(image, size):
    """Half-pixel centres; each output pixel is the mean of the input under a triangle, as wide as the step.

    When enlarging, the triangle is one input pixel wide on each side, and this is `resize_bilinear`.
    """
    height, width = image.shape[:2]
    out = np.zeros((*size, 3))
    for i, j in np.ndindex(*size):
        total = 0.0
        for y in range(height):
            for x in range(width):
                share = triangle(y, i, height / size[0]) * triangle(x, j, width / size[1])
                out[i, j] += share * image[y, x]
                total += share
        out[i, j] /= total
    return out


def triangle(source, target, step):
    return max(0.0, 1 - abs(source + 0.5 - (target + 0.5) * step) / max(step, 1.0))


def resize_nearest(label, size):
    """The input pixel that holds the output pixel's centre."""
    out = np.zeros(size, label.dtype)
    for i, j in np.ndindex(*size):
        y = math.floor((i + 0.5) * label.shape[0] / size[0])
        out[i, j] = label[y, math.floor((j + 0.5) * label.shape[1] / size[1])]
    return out


def warp(image, label, y, x, fill, ignore=255):
    """Image and label at the points (y, x); `fill` and `ignore` where a point is in no pixel."""
    out_image, out_label = np.zeros((*y.shape, 3)), np.zeros(y.shape, np.uint8)
    for index in np.ndindex(y.shape):
        i, j = math.floor(y[index] + 0.5), math.floor(x[index] + 0.5)
        if 0 <= i < label.shape[0] and 0 <= j < label.shape[1]:
            out_image[index], out_label[index] = bilinear_at(image, y[index], x[index]), label[i, j]
        else:
            out_image[index], out_label[index] = fill, ignore
    return out_image, out_label


def cubic(distance):
    """Keys 1981, eq. 15: the cubic convolution kernel with a = -1/2."""
    d = abs(distance)
    if d < 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


def bicubic_grid(grid, size):
    """A 3x3 grid, its outer points at the corner pixels, at every pixel of `size`; the border repeated."""
    out = np.zeros(size)
    for i, j in np.ndindex(*size):
        y, x = 2 * i / (size[0] - 1), 2 * j / (size[1] - 1)
        for a in range(-2, 5):
            for b in range(-2, 5):
                out[i, j] += cubic(y - a) * cubic(x - b) * grid[min(max(a, 0), 2), min(max(b, 0), 2)]
    return out

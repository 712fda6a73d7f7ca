"""Slow, obvious transposed convolution and bilinear interpolation of [N, H, W, C] arrays, in float64."""

import numpy as np


def conv_transpose(x, kernel, stride):
    """Each input pixel stamps its multiple of the kernel [k, k, C, O], stored turned as linen does."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)[::-1, ::-1]
    size = kernel.shape[0]
    batch, height, width, _ = x.shape
    out = np.zeros((batch, (height - 1) * stride + size, (width - 1) * stride + size, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            stamp = np.einsum("nc,abco->nabo", x[:, i, j], kernel)
            out[:, i * stride : i * stride + size, j * stride : j * stride + size] += stamp
    return out


def bilinear(x, size, align_corners=False):
    """Every output pixel from the four input pixels around its centre; outside lies the edge pixel again."""
    x = np.asarray(x, np.float64)
    height, width = x.shape[1:3]
    out = np.zeros((x.shape[0], *size, x.shape[3]))
    for i in range(size[0]):
        for j in range(size[1]):
            if align_corners:
                y = i * (height - 1) / max(size[0] - 1, 1)
                z = j * (width - 1) / max(size[1] - 1, 1)
            else:
                y = (i + 0.5) * height / size[0] - 0.5
                z = (j + 0.5) * width / size[1] - 0.5
            top, left = int(np.floor(y)), int(np.floor(z))
            for row in (top, top + 1):
                for column in (left, left + 1):
                    weight = (1 - abs(y - row)) * (1 - abs(z - column))
                    out[:, i, j] += weight * x[:, np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return out

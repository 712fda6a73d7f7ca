"""Slow, obvious convolution and max pooling of [N, H, W, C] arrays, in float64."""

import numpy as np


def convolution(x, kernel, strides=(1, 1), pads=((0, 0), (0, 0)), dilation=(1, 1), groups=1):
    """Correlation of x [N, H, W, C] with kernel [h, w, C // groups, O]: tap by tap, group by group."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *pads, (0, 0)))
    kernel = np.asarray(kernel, np.float64)
    height, width, inputs, features = kernel.shape
    reach = ((height - 1) * dilation[0] + 1, (width - 1) * dilation[1] + 1)
    rows = (x.shape[1] - reach[0]) // strides[0] + 1
    columns = (x.shape[2] - reach[1]) // strides[1] + 1
    out = np.zeros((x.shape[0], rows, columns, features))
    outputs = features // groups
    for i in range(height):
        for j in range(width):
            top, left = i * dilation[0], j * dilation[1]
            seen = x[:, top:, left:][:, :: strides[0], :: strides[1]][:, :rows, :columns]
            for g in range(groups):
                read, write = slice(g * inputs, (g + 1) * inputs), slice(g * outputs, (g + 1) * outputs)
                out[..., write] += np.einsum("nhwc,co->nhwo", seen[..., read], kernel[i, j][:, write])
    return out


def max_pool(x, window, strides, ceil=False):
    """Maximum of each window; with ceil the last window may hang over the edge, if it starts inside."""
    sizes = []
    for size, k, s in zip(x.shape[1:3], window, strides, strict=True):
        starts = [start for start in range(0, size, s) if start + k <= size]
        if ceil and (not starts or starts[-1] + k < size) and (len(starts) * s < size):
            starts.append(len(starts) * s)
        sizes.append(starts)
    out = np.zeros((x.shape[0], len(sizes[0]), len(sizes[1]), x.shape[3]), x.dtype)
    for i, top in enumerate(sizes[0]):
        for j, left in enumerate(sizes[1]):
            out[:, i, j] = x[:, top : top + window[0], left : left + window[1]].max(axis=(1, 2))
    return out

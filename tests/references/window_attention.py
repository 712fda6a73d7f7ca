"""Attention within windows, pixel by pixel, from Liu et al. 2021, section 3.2 and figure 4."""

import numpy as np


def allowed(size, window, shift):
    """bool [H, W, H, W]: which pixels of a padded image may see each other.

    The windows tile the image from (shift, shift) on; what is left at its borders are smaller windows.
    """
    height, width = size

    def parts(length):
        return [-1 if i < shift else (i - shift) // window for i in range(length)]

    rows, columns = parts(height), parts(width)
    same_row = np.array([[a == b for b in rows] for a in rows])
    same_column = np.array([[a == b for b in columns] for a in columns])
    return same_row[:, None, :, None] & same_column[None, :, None, :]


def window_attention(params, x, window, heads, shift, attend=True):
    """(result [H, W, C], weights [heads, H, W, Hp, Wp]) of features [H, W, C] that are padded to [Hp, Wp, C]."""
    params = {name: {k: np.float64(v) for k, v in p.items()} for name, p in params.items() if name != "bias_table"} | {
        "bias_table": np.float64(params["bias_table"]).reshape(heads, 2 * window - 1, 2 * window - 1)
    }
    height, width, channels = x.shape
    padded = tuple(-(-length // window) * window for length in (height, width))
    image = np.zeros((*padded, channels))
    image[:height, :width] = x
    query, key, value = (image @ params[n]["kernel"] + params[n]["bias"] for n in ("query", "key", "value"))
    query, key, value = (y.reshape(*padded, heads, -1) for y in (query, key, value))
    seen = allowed(padded, window, shift)
    result = np.zeros((height, width, channels))
    weights = np.zeros((heads, height, width, *padded))
    for i in range(height):
        for j in range(width):
            keys = np.argwhere(seen[i, j])
            found = np.zeros((heads, channels // heads))
            for head in range(heads):
                scores = np.zeros(len(keys))
                for number, (k, m) in enumerate(keys):
                    if attend:
                        scores[number] = query[i, j, head] @ key[k, m, head] / np.sqrt(channels // heads)
                        scores[number] += params["bias_table"][head, i - k + window - 1, j - m + window - 1]
                share = np.exp(scores - scores.max())
                share /= share.sum()
                for (k, m), weight in zip(keys, share, strict=True):
                    weights[head, i, j, k, m] = weight
                    found[head] += weight * value[k, m, head]
            result[i, j] = found.ravel() @ params["projection"]["kernel"] + params["projection"]["bias"]
    return result, weights

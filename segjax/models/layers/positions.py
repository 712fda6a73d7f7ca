"""Positions of the pixels of a feature map as sines and cosines.

Vaswani et al. 2017, arXiv:1706.03762, section 3.5, for two dimensions as in DETR (Carion et al. 2020,
arXiv:2005.12872, appendix A.4) and its code: rows and columns are counted from 1 and scaled to 2 pi.
"""

import numpy as np

TEMPERATURE = 10000.0


def sine_positions(size: tuple[int, int], channels: int) -> np.ndarray:
    """float32 [*size, channels] in -1..1: the first half of the channels tells rows, the second columns.

    In each half sines and cosines of one frequency alternate, from 1 down to almost 1 / TEMPERATURE. `channels` is a
    multiple of 4.
    """
    half = channels // 2
    rows, columns = (_along(length, half) for length in size)
    rows = np.broadcast_to(rows[:, None], (*size, half))
    columns = np.broadcast_to(columns[None], (*size, half))
    return np.concatenate([rows, columns], axis=-1).astype(np.float32)


def _along(length, channels):
    count = np.arange(1, length + 1)[:, None] / (length + 1e-6)
    angle = 2 * np.pi * count * TEMPERATURE ** (-np.arange(0, channels, 2) / channels)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(length, channels)

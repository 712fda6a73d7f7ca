"""Slow, obvious composition of digits."""

import math

import numpy as np


def ink_coverage(scan: np.ndarray, size: float, angle: float, centre: tuple[float, float], shape) -> np.ndarray:
    """float64 [height, width]: the scan, 0..1, read bilinearly at the centre of each pixel; 0 outside of it.

    The inner 64 of the scan's 80 pixels fill the square of `size` pixels.
    """
    scan = scan / 255
    side = len(scan)
    out = np.zeros(shape)
    turn = math.radians(angle)
    for y in range(shape[0]):
        for x in range(shape[1]):
            dy, dx = y + 0.5 - centre[0], x + 0.5 - centre[1]
            # The picture is turned counter-clockwise as seen (y points down), so the place is turned back.
            back_x = dx * math.cos(turn) - dy * math.sin(turn)
            back_y = dx * math.sin(turn) + dy * math.cos(turn)
            u = back_x * (side - 16) / size + side / 2 - 0.5
            v = back_y * (side - 16) / size + side / 2 - 0.5
            if not (0 <= u <= side - 1 and 0 <= v <= side - 1):
                continue
            i, j = min(int(v), side - 2), min(int(u), side - 2)
            a, b = v - i, u - j
            out[y, x] = (
                (1 - a) * (1 - b) * scan[i, j]
                + (1 - a) * b * scan[i, j + 1]
                + a * (1 - b) * scan[i + 1, j]
                + a * b * scan[i + 1, j + 1]
            )
    return out


def composed(background: np.ndarray, digits, alphas) -> tuple[np.ndarray, np.ndarray]:
    """(image float64 [H, W, 3], label [H, W]) from whole-picture alphas, later digits over earlier ones."""
    image, label = background.astype(np.float64), np.zeros(background.shape[:2], np.uint8)
    for digit, alpha in zip(digits, alphas, strict=True):
        for y in range(label.shape[0]):
            for x in range(label.shape[1]):
                share = digit.opacity * alpha[y, x]
                image[y, x] = (1 - share) * image[y, x] + share * np.array(digit.ink)
                if alpha[y, x] >= 0.5:
                    label[y, x] = digit.value + 1
    return image, label

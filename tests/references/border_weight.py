"""Slow, obvious version of U-Net's border weight: flood fill, and a loop over all border pixels for each pixel."""

import math

import numpy as np

IGNORE = 255
SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))


def neighbours(label, pixel):
    """The pixels on the four sides of one, within the label."""
    for dy, dx in SIDES:
        y, x = pixel[0] + dy, pixel[1] + dx
        if 0 <= y < label.shape[0] and 0 <= x < label.shape[1]:
            yield y, x


def objects(label, classes):
    """The connected components of the classes, as sets of pixels."""
    left = {pixel for pixel in np.ndindex(label.shape) if label[pixel] in classes}
    found = []
    while left:
        component, waiting = set(), [left.pop()]
        while waiting:
            pixel = waiting.pop()
            component.add(pixel)
            for other in neighbours(label, pixel):
                if other in left and label[other] == label[pixel]:
                    left.remove(other)
                    waiting.append(other)
        found.append(component)
    return found


def border_weight(label, w0, sigma, classes):
    """Ronneberger et al. 2015, equation 2, without the class weight: float64 [H, W]."""
    borders = []
    for component in objects(label, classes):
        border = [
            pixel
            for pixel in component
            if any(label[other] != IGNORE and other not in component for other in neighbours(label, pixel))
        ]
        borders.append(border)
    weight = np.zeros(label.shape)
    for pixel in np.ndindex(label.shape):
        distances = sorted(min(math.dist(pixel, other) for other in border) for border in borders if border)
        if len(distances) > 1 and label[pixel] != IGNORE:
            weight[pixel] = w0 * math.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return weight

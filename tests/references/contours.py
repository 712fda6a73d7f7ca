"""Scores of borders, pixel by pixel from their definitions: Boundary IoU, trimaps, distances between surfaces."""

import itertools
import math

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist

IGNORE = 255
CROSS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def band(mask, ratio):
    """What repeated erosions by a 3x3 square remove; outside of the image there is nothing (Cheng et al. 2021)."""
    steps = max(1, round(ratio * math.hypot(*mask.shape)))
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=steps, border_value=0)


def boundary_iou_counts(prediction, label, num_classes, ratio):
    prediction = np.where(label == IGNORE, IGNORE, prediction)
    found = []
    for index in range(num_classes):
        drawn, wanted = band(prediction == index, ratio), band(label == index, ratio)
        found.append([(drawn & wanted).sum(), (drawn | wanted).sum()])
    return np.array(found).T


def edges(label):
    """Pixels with another label (IGNORE is one) above, below, left or right of them."""
    height, width = label.shape
    found = np.zeros(label.shape, bool)
    for (y, x), (dy, dx) in itertools.product(np.ndindex(label.shape), CROSS):
        if 0 <= y + dy < height and 0 <= x + dx < width:
            found[y, x] |= label[y + dy, x + dx] != label[y, x]
    return found


def trimap_confusion(prediction, label, num_classes, width):
    border = np.argwhere(edges(label))
    found = np.zeros((num_classes, num_classes), int)
    for place in np.ndindex(label.shape):
        near = len(border) and np.hypot(*(border - place).T).min() <= width - 1
        if near and label[place] != IGNORE:
            found[label[place], prediction[place]] += 1
    return found


def surface(mask):
    """Coordinates of a mask's pixels beside one that is not in it, or beside the outside."""
    height, width = mask.shape

    def beside(y, x):
        around = [(y + dy, x + dx) for dy, dx in CROSS]
        return any(not (0 <= v < height and 0 <= u < width) or not mask[v, u] for v, u in around)

    return np.array([place for place in np.argwhere(mask) if beside(*place)])


def surface_distances(drawn, wanted):
    """(Hausdorff, its 95th percentile, ASSD) of two masks that are not empty, by all pairs of surface pixels."""
    pairs = cdist(surface(drawn), surface(wanted))
    there, back = pairs.min(1), pairs.min(0)
    both = [*there, *back]
    return max(both), np.percentile(both, 95), sum(both) / len(both)

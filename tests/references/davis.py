"""DAVIS's J and F of one object in one frame, written in NumPy and SciPy from the definitions, pixel by pixel."""

import math

import numpy as np
from scipy import ndimage


def region_iou(drawn, wanted):
    union = np.logical_or(drawn, wanted).sum()
    return 1.0 if union == 0 else np.logical_and(drawn, wanted).sum() / union


def boundary(mask):
    """Pixels that differ from their right, lower or lower right neighbour, where there is one."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            for down, right in ((0, 1), (1, 0), (1, 1)):
                if y + down < height and x + right < width:
                    found[y, x] |= mask[y, x] != mask[y + down, x + right]
    return found


def boundary_f(drawn, wanted):
    drawn, wanted = boundary(drawn), boundary(wanted)
    if not drawn.any() and not wanted.any():
        return 1.0
    if not drawn.any() or not wanted.any():
        return 0.0
    reach = math.ceil(0.008 * math.hypot(*drawn.shape))
    to_wanted, to_drawn = (ndimage.distance_transform_edt(~edge) for edge in (wanted, drawn))
    precision, recall = (to_wanted[drawn] <= reach).mean(), (to_drawn[wanted] <= reach).mean()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)

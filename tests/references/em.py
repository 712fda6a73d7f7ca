"""The ISBI 2012 scores from their formulas: sets of pixels, floods and flips of one pixel at a time."""

from collections import Counter

import numpy as np


def components(mask, connectivity=4):
    """integers [H, W]: 0 outside of the mask, else the number of the part that a pixel is in, by flooding."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)] + [(1, 1), (1, -1), (-1, 1), (-1, -1)] * (connectivity == 8)
    found = np.zeros(mask.shape, int)
    number = 0
    for start in map(tuple, np.argwhere(mask)):
        if found[start]:
            continue
        number += 1
        found[start], stack = number, [start]
        while stack:
            y, x = stack.pop()
            for place in ((y + dy, x + dx) for dy, dx in steps):
                inside = 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]
                if inside and mask[place] and not found[place]:
                    found[place] = number
                    stack.append(place)
    return found


def labelled_pairs(wanted, drawn):
    """For each pixel of the label's segments: (its segment, the predicted one), a border pixel alone in its own."""
    return [
        (int(wanted[place]), int(drawn[place]) or ("border", *place))
        for place in map(tuple, np.argwhere(wanted > 0).tolist())
    ]


def v_rand(wanted, drawn):
    """Of all pairs of pixels, each with itself too, those together in both: harmonic mean of precision and recall."""
    pairs = labelled_pairs(wanted, drawn)
    both, t, s = Counter(pairs), Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    together, merged, split = (sum(size**2 for size in sizes.values()) for sizes in (both, s, t))
    precision, recall = together / merged, together / split
    return 2 * precision * recall / (precision + recall)


def topology(cells):
    """(number of 4-connected cells, number of 8-connected membranes) inside of what is given."""
    return components(cells, 4).max(initial=0), components(~cells, 8).max(initial=0)


def is_simple(patch):
    """Whether flipping the middle of bool [3, 3] leaves the numbers of parts in it as they are."""
    flipped = patch.copy()
    flipped[1, 1] ^= True
    return topology(patch) == topology(flipped)


def warp(wanted, drawn, labelled):
    """The label, warped onto the prediction by flips of one simple pixel after the other, bool [H, W]."""
    warped, target = np.pad(wanted, 1), np.pad(drawn, 1)
    places = [(y + 1, x + 1) for y, x in np.argwhere(labelled)]
    changed = True
    while changed:
        changed = False
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            for y, x in places:
                due = (y % 2, x % 2) == corner and warped[y, x] != target[y, x]
                if due and is_simple(warped[y - 1 : y + 2, x - 1 : x + 2]):
                    warped[y, x] ^= True
                    changed = True
    return warped[1:-1, 1:-1]

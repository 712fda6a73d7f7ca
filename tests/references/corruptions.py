"""Corruptions from their formulas, pixel by pixel."""

import math

import numpy as np


def disc(radius):
    """Weights of a disc with an edge one pixel wide, normalised, on the smallest odd square that holds it."""
    reach = math.ceil(radius + 0.5)
    weights = np.zeros((2 * reach + 1, 2 * reach + 1))
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            distance = math.hypot(row - reach, column - reach)
            weights[row, column] = min(max(radius + 0.5 - distance, 0), 1)
    return weights / weights.sum()


def diamond_square(draws, levels, decay):
    """Fournier, Fussell & Carpenter 1982 on a torus of 2^levels points, from one corner of height 0.

    draws: in the order of levels; in each the middles of squares, of upper sides and of left sides, row by row.
    """
    size = 2**levels
    height = np.full((size, size), np.nan)
    height[0, 0] = 0
    draws = iter(draws)
    for level in range(levels):
        step, half = size >> level, size >> level + 1
        squares = [(y, x) for y in range(0, size, step) for x in range(0, size, step)]

        def put(y, x, neighbours, level=level):
            found = [height[b % size, a % size] for b, a in neighbours]
            height[y, x] = np.mean(found) + next(draws) / decay ** (2 * level)

        for y, x in squares:
            put(y + half, x + half, [(y, x), (y + step, x), (y, x + step), (y + step, x + step)])
        for y, x in squares:
            put(y, x + half, [(y, x), (y, x + step), (y + half, x + half), (y - half, x + half)])
        for y, x in squares:
            put(y + half, x, [(y, x), (y + step, x), (y + half, x + half), (y + half, x - half)])
    height -= height.min()
    return height / height.max()

"""The scores of the ISBI 2012 challenge on electron microscopy: do the membranes keep the cells apart? On the host.

Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics", Frontiers in
Neuroanatomy 9:142, 2015 (V_rand and V_info, by which its leader board is ordered since), and the older scores by which
the papers of 2012 to 2015 report: warping error (Jain et al., "Boundary learning by optimization with topological
constraints", CVPR 2010), Rand error and pixel error. Read beside them: the organisers' code, Fiji's
trainableSegmentation.metrics, whose version with border thinning was not at hand.

The probability that a pixel is inside of a cell is cut at several thresholds. What is left are 4-connected segments,
compared with those of the label. As in Fiji a threshold's score is the mean over the images, and the best threshold
counts: it is chosen on the split itself, so the scores are those of an oracle.

Where this differs, or may differ, from the organisers' scores:
  - Borders are thinned by giving each of their pixels to the nearest segment but for a line of one pixel; theirs are
    watershed lines, which lie within a pixel or so of these. Only the prediction's borders are thinned, since pixels on
    the label's are not scored.
  - Their V_info divides by all pixels, ours by those in the label's cells, as the paper's probabilities do.
  - Their warping error counts splits and mergers, in clusters, and flips the pixels in the order of their confidence.
    Ours is the pixels that no homotopic warping, a sequence of flips of simple points, was found to correct.
"""

import functools

import numpy as np
from scipy import ndimage

from segjax.evaluation.score import Score, finite_means

CELL, MEMBRANE = 0, 1
THRESHOLDS = np.arange(10) / 10
"""Above which a pixel belongs to a cell; Fiji's, but for 1.0, above which there is nothing."""


def em_score() -> Score:
    """`V_rand`, `V_info` (1 is best), `rand_error`, `pixel_error`, `warping_error` (0 is best), each at its threshold.

    The network's class 0 is the inside of cells, class 1 the membranes between them.
    """

    def conclude(values):
        v_rand, v_info, rand, pixels, warping = finite_means(values)
        return {
            "V_rand": _best(v_rand),
            "V_info": _best(v_info),
            "rand_error": 1 - _best(rand),
            "pixel_error": 1 - _best(pixels),
            "warping_error": -_best(-warping),
        }

    def measure(probabilities, prediction, label):
        return probabilities[..., CELL], label

    return Score(measure, conclude, em_scores)


def _best(of_threshold):
    return float("nan") if np.isnan(of_threshold).all() else float(np.nanmax(of_threshold))


def em_scores(cell: np.ndarray, label: np.ndarray) -> np.ndarray:
    """One image's scores at each threshold: float64 [5, len(THRESHOLDS)].

    Args:
      cell: float [H, W], probability of the inside of a cell.
      label: integers [H, W], CELL or MEMBRANE; any other value is unlabelled and not scored.
    Returns:
      Rows: V_rand, V_info, V_rand without thinning (whose complement is the Rand error), F1 of the cells' pixels,
      warping error. All NaN for an image without a labelled pixel; without a labelled cell all but the last are.
    """
    inside, labelled = label == CELL, (label == CELL) | (label == MEMBRANE)
    wanted, _ = ndimage.label(inside)
    found = np.full((5, len(THRESHOLDS)), np.nan)
    if not labelled.any():
        return found
    for place, threshold in enumerate(THRESHOLDS):
        drawn = cell > threshold
        if inside.any():
            segments, _ = ndimage.label(drawn)
            found[:2, place] = agreement(wanted, thin_borders(segments))
            found[2, place] = agreement(wanted, segments)[0]
            found[3, place] = 2 * (drawn & inside).sum() / ((drawn & labelled).sum() + inside.sum())
        found[4, place] = warping_error(inside, drawn, labelled)
    return found


def thin_borders(segments: np.ndarray) -> np.ndarray:
    """Segments that have grown over the borders between them, but for a line of one pixel.

    Args:
      segments: integers [H, W], 0 on the borders; two segments have no pixels side by side.
    Returns:
      The same; where the borders were thicker than a pixel, each of their pixels has gone to the nearest segment. No
      two segments touch (4-neighbours) afterwards either. Without a segment all is border.
    """
    border = segments == 0
    if border.all():
        return segments
    rows, columns = ndimage.distance_transform_edt(border, return_distances=False, return_indices=True)
    grown = segments[rows, columns]
    line = np.zeros_like(border)
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = grown[first] != grown[second]
        # Of two pixels one at least was border, for else they would be one segment.
        line[first] |= differ & border[first]
        line[second] |= differ & ~border[first]
    return np.where(line, 0, grown)


def agreement(wanted: np.ndarray, drawn: np.ndarray) -> tuple[float, float]:
    """V_rand and V_info, 0..1, of two segmentations, over the pixels of the first one's segments.

    With p_ij the share of the pixels in the label's segment i and the predicted segment j, t_i and s_j its sums, V_rand
    is sum p_ij^2 / (sum s_j^2 / 2 + sum t_i^2 / 2), and V_info the mutual information over the mean of the entropies of
    s and t: F-scores of splits and mergers alike. A predicted border pixel is a segment of its own.

    Args:
      wanted, drawn: integers [H, W], numbers of segments, 0 on the borders. `wanted` must have a segment.
    """
    where = wanted > 0
    wanted, drawn = wanted[where].astype(np.int64), drawn[where].astype(np.int64)
    total, alone = len(wanted), int((drawn == 0).sum())
    together = np.unique((wanted * (drawn.max() + 1) + drawn)[drawn > 0], return_counts=True)[1]
    t, s, p = (sizes[sizes > 0] / total for sizes in (np.bincount(wanted), np.bincount(drawn)[1:], together))

    lone = alone / total**2
    rand = ((p**2).sum() + lone) / (((s**2).sum() + (t**2).sum() + lone) / 2)

    lone = alone / total * np.log(total)
    entropies = [-(share * np.log(share)).sum() for share in (t, s, p)]
    of_t, of_s, of_both = entropies[0], entropies[1] + lone, entropies[2] + lone
    if of_t + of_s == 0:  # one segment each
        return float(rand), 1.0
    return float(rand), float(2 * (of_t + of_s - of_both) / (of_t + of_s))


def warping_error(wanted: np.ndarray, drawn: np.ndarray, labelled: np.ndarray) -> float:
    """Share of the labelled pixels at which the label differs from the prediction when it was warped onto it, 0..1.

    The label's pixels that differ are flipped as long as they are simple, so that no cell is split, merged, made or
    lost (cells 4-connected, membranes 8-connected; outside of the image there is membrane, as in the organisers' code).
    A pixel's neighbours say whether it is simple, so every second one of every second row is flipped at once, in turns,
    until nothing changes: the result is that of flipping one after the other.

    Args:
      wanted, drawn, labelled: bool [H, W], the cells of the label and of the prediction, and what is scored.
    """
    row = wanted.shape[1] + 2
    warped = np.pad(wanted, 1).ravel()
    target = np.pad(drawn, 1).ravel()
    around = np.array([-row - 1, -row, -row + 1, -1, 1, row - 1, row, row + 1])
    places = np.flatnonzero(np.pad(labelled, 1).ravel() & (warped != target))
    parts = [places[((places // row) % 2 == y) & ((places % row) % 2 == x)] for y in (0, 1) for x in (0, 1)]
    simple, bits = simple_points(), 1 << np.arange(8)
    changed = True
    while changed:
        changed = False
        for number, part in enumerate(parts):
            flip = simple[warped[part[:, None] + around] @ bits]
            warped[part[flip]] ^= True
            parts[number] = part[~flip]
            changed |= bool(flip.any())
    return float(sum(map(len, parts)) / labelled.sum())


@functools.cache
def simple_points() -> np.ndarray:
    """bool [256]: whether a pixel can be flipped without a change of topology, by the cells among its 8 neighbours.

    Bit k of the index is neighbour k in the order of rows. A pixel is simple where its neighbours have one 4-connected
    part of cell that touches it (side by side) and one 8-connected part of membrane (Kong and Rosenfeld 1989).
    """
    table = np.zeros(256, bool)
    for index in range(256):
        neighbours = np.array([index >> bit & 1 for bit in range(8)], bool)
        cell = np.insert(neighbours, 4, False).reshape(3, 3)
        membrane = np.insert(~neighbours, 4, False).reshape(3, 3)
        parts, _ = ndimage.label(cell)
        touching = set(parts[[0, 1, 1, 2], [1, 0, 2, 1]].tolist()) - {0}
        table[index] = len(touching) == 1 and ndimage.label(membrane, np.ones((3, 3)))[1] == 1
    return table

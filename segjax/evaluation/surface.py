"""Distances between the contours of each class, in pixels, on the host: Hausdorff, its 95th percentile, ASSD.

The conventions are those of medpy 0.5 (`hd`, `hd95`, `assd` of medpy.metric.binary, connectivity 1), by which many
papers on medical images score. MONAI differs in one: its 95th percentile is the larger one of the two directions',
where medpy's is that of both directions' distances together.
"""

import numpy as np
from scipy import ndimage

from segjax.core.batch import IGNORE_LABEL
from segjax.evaluation.score import Score, finite_mean, finite_means

NAMES = ("hausdorff", "hausdorff95", "assd")


def surface_score(num_classes: int) -> Score:
    """`hausdorff`, `hausdorff95` and `assd`, float [C] in pixels, the mean of each over the classes as `mean_...`.

    A class's mean is over the images in which both label and prediction have it, NaN where there is none. An image in
    which one of them alone has it has no distance, which would be infinite: `surface_missed`, float [C], counts those
    images, and `surface_misses` is its sum, so that a network that draws little does not look good unseen.
    """

    def conclude(values):
        means = finite_means(values)
        missed = np.isinf(values[:, 0]).sum(0).astype(float)
        return {
            **dict(zip(NAMES, means, strict=True)),
            **{f"mean_{name}": finite_mean(of_class) for name, of_class in zip(NAMES, means, strict=True)},
            "surface_missed": missed,
            "surface_misses": float(missed.sum()),
        }

    def each(prediction, label):
        return surface_distances(prediction, label, num_classes)

    return Score(lambda probabilities, prediction, label: (prediction, label), conclude, each)


def surface_distances(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Hausdorff distance, its 95th percentile and the average symmetric surface distance: float64 [3, C], pixels.

    A class's surface is those of its pixels that have a pixel of no or another class, or the image's edge, above,
    below, left or right of them. Unlabelled pixels have no class, so both surfaces run along them.

    Args:
      prediction: integers [H, W], 0..C-1.
      label: integers [H, W], a class or IGNORE_LABEL.
    Returns:
      NaN for a class that neither has, inf for one that only one of them has.
    """
    prediction = np.where(label == IGNORE_LABEL, IGNORE_LABEL, prediction)
    found = np.full((len(NAMES), num_classes), np.nan)
    for index in range(num_classes):
        drawn, wanted = prediction == index, label == index
        if drawn.any() and wanted.any():
            found[:, index] = _distances(*_cut(drawn, wanted))
        elif drawn.any() or wanted.any():
            found[:, index] = np.inf
    return found


def _distances(drawn, wanted):
    drawn, wanted = _surface(drawn), _surface(wanted)
    there = ndimage.distance_transform_edt(~wanted)[drawn]
    back = ndimage.distance_transform_edt(~drawn)[wanted]
    both = np.concatenate([there, back])
    return both.max(), np.percentile(both, 95), both.mean()


def _surface(mask):
    around = np.pad(mask, 1)
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return mask & ~inside


def _cut(drawn, wanted):
    """Both masks in the smallest rectangle that holds them, beyond which no distance depends on anything."""
    either = drawn | wanted
    rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return drawn[window], wanted[window]

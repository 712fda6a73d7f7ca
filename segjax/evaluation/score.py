"""What an evaluator scores beside its confusion matrix: one form for scores from the device and from the host."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Score(NamedTuple):
    """Measured for each image on the device, finished for each on the host where that is needed, then concluded.

    Attributes:
      measure: (probabilities [M, H, W, C], prediction uint8 [M, H, W], label uint8 [M, H, W]) -> an array or a tuple of
        arrays [M, ...]; a part of the compiled evaluation step. The images come without padding.
      conclude: what was measured -> {name: a number, or a float array [C] of one a class}. It receives the arrays of
        all images [images, ...] in the order of the split, or the sum of their counts.
      each: the arrays that were measured of one image -> a NumPy array of the same shape for every image. Runs on the
        host, in threads and in every process; `conclude` then receives its results. None where nothing is left to do.
      counts: the shape of the counts of one image, where `measure` gives int32 [M, *counts] that are to be summed over
        the split, exactly (`segjax.evaluation.metrics.ExactCounts`); None where every image is kept.
    """

    measure: Callable[..., Any]
    conclude: Callable[..., dict[str, Any]]
    each: Callable[..., np.ndarray] | None = None
    counts: tuple[int, ...] | None = None


def finite_mean(values: np.ndarray) -> float:
    """Mean of those images that have a score; NaN, and no warning, where none has."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def finite_means(values: np.ndarray) -> np.ndarray:
    """`finite_mean` over the first axis: [N, ...] -> float64 [...]."""
    defined = np.isfinite(values)
    total, count = np.where(defined, values, 0.0).sum(0, dtype=np.float64), defined.sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)

"""How often each class occurs in a data set, and the loss weights that follow from it."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segjax.data.checks import with_progress
from segjax.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class ClassStatistics:
    """Counts over one split.

    Attributes:
      pixels: int64 [num_classes], labelled pixels of each class.
      unlabelled: pixels without a label.
      images: int64 [num_classes], examples in which a class occurs.
      pixels_where_present: int64 [num_classes], all pixels, unlabelled ones too, of those examples.
    """

    pixels: np.ndarray
    unlabelled: int
    images: np.ndarray
    pixels_where_present: np.ndarray


def class_statistics(dataset: Dataset) -> ClassStatistics:
    """Read every example of a split, in threads. Raises what the source raises for an example."""
    num_classes = dataset.info.num_classes
    pixels, images, where_present = (np.zeros(num_classes, np.int64) for _ in range(3))
    total = 0

    def count(index: int) -> tuple[np.ndarray, int]:
        label = dataset.source[index]["label"]
        return np.bincount(label.ravel(), minlength=256)[:num_classes], label.size

    with ThreadPoolExecutor() as pool:
        counted = pool.map(count, range(len(dataset)))
        for of_class, size in with_progress(counted, len(dataset), f"counting {dataset.split}"):
            present = of_class > 0
            pixels += of_class
            images += present
            where_present += present * size
            total += size
    return ClassStatistics(pixels, total - int(pixels.sum()), images, where_present)


def median_frequency_weights(statistics: ClassStatistics) -> np.ndarray:
    """Median frequency balancing (Eigen and Fergus 2015, on semantic labels), float64 [num_classes].

    https://arxiv.org/abs/1411.4734. freq(c) is the share of class c in the pixels of the images where it
    occurs; its weight is the median of all freq, divided by freq(c). A class that doesn't occur has the
    weight 0 and no part in the median.
    """
    occurs = statistics.pixels > 0
    weights = np.zeros(len(occurs))
    frequency = statistics.pixels[occurs] / statistics.pixels_where_present[occurs]
    if occurs.any():
        weights[occurs] = np.median(frequency) / frequency
    return weights

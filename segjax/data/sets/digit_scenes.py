"""digit_scenes: the embedded data set. Handwritten digits over photographs, 11 classes, exact labels and instances.

Scene k of a split is a function of (SEED, split, k) alone, and the splits draw from disjoint digit scans. It
is composed when it is first prepared, from what scikit-learn and scikit-image carry; nothing is downloaded.
"""

import functools
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from segjax.data.dataset import Dataset, DatasetInfo
from segjax.data.images import png_bytes
from segjax.data.sets import digits
from segjax.data.source import resized
from segjax.data.tfds_source import load_prepared

SEED = 1
"""Belongs to the version: another seed gives other scenes."""

SIZE = (128, 128)
COUNTS = {"train": 1600, "val": 200, "test": 200}

INFO = DatasetInfo(
    name="digit_scenes",
    class_names=digits.CLASS_NAMES,
    palette=digits.PALETTE,
    ignore_label=None,
    mean=(103.0, 102.4, 90.9),  # measured over train, version 1.1.0
    std=(49.1, 53.6, 47.1),
    splits=tuple(COUNTS),
    licence=digits.LICENCE,
    citation=digits.CITATION,
    things=tuple(range(1, 11)),
)


def scene(split: str, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scene number `index` of a split: image uint8 [128, 128, 3], label and instance uint8 [128, 128].

    Eight to sixteen digits of 20 to 34 pixels, turned by up to 15 degrees, brighter than what is under them. A
    digit is laid only where it leaves 90 % of every earlier one's ink to be seen. Many small digits rather than
    few large ones, so that a network learns them from few scenes.
    """
    rng = np.random.default_rng([SEED, list(COUNTS).index(split), index])
    background = digits.random_background(rng, SIZE)
    scans = digits.enlarged_scans(split)
    placed, inks = [], []
    visible: list[np.ndarray] = []
    wanted = rng.integers(8, 17)
    for _ in range(8 * wanted):
        if len(placed) == wanted:
            break
        digit = digits.random_digit(rng, scans, SIZE, size=(20, 34), angle=15)
        ink = digits.ink_of(digit, SIZE)
        free = np.ones(SIZE, bool)
        free[ink.window] = ~ink.covers
        left = [mask & free for mask in visible]
        if all(m.sum() >= 0.9 * i.covers.sum() for m, i in zip(left, inks, strict=True)):
            visible = [*left, ~free]
            placed.append(digits.coloured(rng, digit, ink, background, contrast=80))
            inks.append(ink)
    image, label, instance = digits.compose(background, placed, inks)
    return digits.add_noise(rng, image, rng.uniform(0, 8)), label, instance


class DigitScenes(tfds.core.GeneratorBasedBuilder):
    """Scenes of handwritten digits over photographs, for semantic segmentation."""

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.2.0": "Which digit a pixel belongs to; images and labels are those of 1.1.0.",
        "1.1.0": "Larger range of sizes and angles, more overlap, less contrast.",
        "1.0.0": "1600/200/200 scenes of 128x128 pixels.",
    }

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(*SIZE, 3), encoding_format="png"),
                    "label": tfds.features.Image(shape=(*SIZE, 1), encoding_format="png"),
                    "instance": tfds.features.Image(shape=(*SIZE, 1), encoding_format="png"),
                    "id": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            license=digits.LICENCE,
            citation=digits.CITATION,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split, count) for split, count in COUNTS.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict]]:
        for index in range(count):
            image, label, instance = scene(split, index)
            yield (
                index,
                {
                    "image": png_bytes(image),
                    "label": png_bytes(label),
                    "instance": png_bytes(instance),
                    "id": f"{split}_{index:04d}",
                },
            )


def load(data_dir: str | None, split: str, size: tuple[int, int] | None = None) -> Dataset:
    """One split of digit_scenes; it is prepared first where that was not done yet (seconds).

    Args:
      data_dir: TFDS's data_dir; None is TFDS's default (`~/tensorflow_datasets` or `TFDS_DATA_DIR`).
      split: "train", "val" or "test".
      size: (height, width) to which examples are resized when read; None keeps 128x128.
    Raises:
      ValueError: there is no such split.
    """
    return resized(load_prepared(functools.partial(DigitScenes, data_dir=data_dir), INFO, split), size)

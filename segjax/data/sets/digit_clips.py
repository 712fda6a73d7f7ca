"""digit_clips: digit_scenes in motion, for video models. 11 classes, a label for every frame.

Digits move on straight lines, bounce off the borders, turn slowly and pass over each other; which one lies on
top stays so through the clip. Clip k of a split is a function of (SEED, split, k) alone, and the splits draw
from disjoint digit scans. Nothing is downloaded.
"""

import dataclasses
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

SEED = 2
"""Belongs to the version: another seed gives other clips."""

FRAMES = 8
SIZE = (96, 96)
COUNTS = {"train": 200, "val": 40, "test": 40}

INFO = DatasetInfo(
    name="digit_clips",
    class_names=digits.CLASS_NAMES,
    palette=digits.PALETTE,
    ignore_label=None,
    mean=(104.1, 103.5, 95.0),  # measured over train, version 1.1.0
    std=(50.6, 53.2, 47.4),
    splits=tuple(COUNTS),
    licence=digits.LICENCE,
    citation=digits.CITATION,
    frames=FRAMES,
)


def clip(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Clip number `index` of a split: image uint8 [8, 96, 96, 3] and label uint8 [8, 96, 96].

    Five to eight digits of 20 to 30 pixels move by 1.5 to 5 pixels and turn by up to 4 degrees a frame.
    """
    rng = np.random.default_rng([SEED, list(COUNTS).index(split), index])
    background = digits.random_background(rng, SIZE)
    scans = digits.enlarged_scans(split)
    moving = [_random_motion(rng, scans, background) for _ in range(rng.integers(5, 9))]
    noise = rng.uniform(0, 8)
    images, labels = [], []
    for frame in range(FRAMES):
        placed = [digit_at(motion, frame) for motion in moving]
        image, label, _ = digits.compose(background, placed, [digits.ink_of(digit, SIZE) for digit in placed])
        images.append(digits.add_noise(rng, image, noise))
        labels.append(label)
    return np.stack(images), np.stack(labels)


@dataclasses.dataclass(frozen=True)
class Motion:
    """A digit's place in frame 0, and how it goes on: (y, x) pixels and degrees a frame."""

    digit: digits.Digit
    velocity: tuple[float, float]
    turning: float


def digit_at(motion: Motion, frame: int) -> digits.Digit:
    """The digit in a frame: its centre bounces where it would come nearer to a border than 0.45 sides."""
    digit = motion.digit
    centre = tuple(
        _reflected(start + frame * step, 0.45 * digit.size, length - 0.45 * digit.size)
        for start, step, length in zip(digit.centre, motion.velocity, SIZE, strict=True)
    )
    return dataclasses.replace(digit, centre=centre, angle=digit.angle + frame * motion.turning)


def _reflected(position: float, low: float, high: float) -> float:
    span = high - low
    phase = (position - low) % (2 * span)
    return low + min(phase, 2 * span - phase)


def _random_motion(rng: np.random.Generator, scans: tuple[np.ndarray, ...], background: np.ndarray) -> Motion:
    digit = digits.random_digit(rng, scans, SIZE, size=(20, 30), angle=10)
    digit = digits.coloured(rng, digit, digits.ink_of(digit, SIZE), background, contrast=100)
    speed, direction = rng.uniform(1.5, 5), rng.uniform(0, 2 * np.pi)
    return Motion(digit, (speed * np.sin(direction), speed * np.cos(direction)), rng.uniform(-4, 4))


class DigitClips(tfds.core.GeneratorBasedBuilder):
    """Clips of handwritten digits that move over photographs, for video semantic segmentation."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.1.0": "Less contrast between ink and background.",
        "1.0.0": "200/40/40 clips of 8 frames of 96x96 pixels.",
    }

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(*SIZE, 3), encoding_format="png")
        label = tfds.features.Image(shape=(*SIZE, 1), encoding_format="png")
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Sequence(image, length=FRAMES),
                    "label": tfds.features.Sequence(label, length=FRAMES),
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
            image, label = clip(split, index)
            yield (
                index,
                {
                    "image": [png_bytes(frame) for frame in image],
                    "label": [png_bytes(frame) for frame in label],
                    "id": f"{split}_{index:04d}",
                },
            )


def load(data_dir: str | None, split: str, size: tuple[int, int] | None = None) -> Dataset:
    """One split of digit_clips; it is prepared first where that was not done yet (seconds).

    Args:
      data_dir: TFDS's data_dir; None is TFDS's default (`~/tensorflow_datasets` or `TFDS_DATA_DIR`).
      split: "train", "val" or "test".
      size: (height, width) to which frames are resized when read; None keeps 96x96.
    Raises:
      ValueError: there is no such split.
    """
    return resized(load_prepared(functools.partial(DigitClips, data_dir=data_dir), INFO, split), size)

"""Examples of an archive's files without TFDS in between, and how made files become an archive."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from segjax.data.archive import Archive, encoded_example, find_split
from segjax.data.images import read_image, read_mask


def uncounted(archive: Archive, **changes) -> Archive:
    return dataclasses.replace(archive, counts={}, **changes)


def decoded(archive: Archive, root: Path, split: str) -> dict[str, dict[str, np.ndarray]]:
    """id -> {"image", "label" and maybe "instance"} of every example of a split of any number, in its order."""
    examples = {}
    for name, files in find_split(uncounted(archive), root, split).items():
        encoded = encoded_example(archive, *files)
        examples[name] = {key: (read_image if key == "image" else read_mask)(data) for key, data in encoded.items()}
    return examples


def save(path: Path, array: np.ndarray | Image.Image, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **options)


def noise(seed: int, shape: tuple[int, ...] = (6, 8, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)

"""Small files as an archive has them, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from segjax.data.sets.voc2012 import colours


def image(path: Path, size: tuple[int, int]) -> None:
    """Random colours, as PNG or JPEG by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(sum(map(ord, path.name))).integers(0, 256, (*size, 3))
    Image.fromarray(values.astype(np.uint8)).save(path)


def mask(path: Path, values: np.ndarray) -> None:
    """A grey PNG with these values: of 16 bits for uint16, of 8 bits else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values if values.dtype == np.uint16 else values.astype(np.uint8)).save(path)


def palette_mask(path: Path, values: np.ndarray) -> None:
    """A PNG with a palette of 256 colours, whose indices are the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8), "P")
    picture.putpalette(colours(256).tobytes())
    picture.save(path)


def matlab(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content, do_compression=True)


def lines(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))

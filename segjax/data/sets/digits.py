"""Composing handwritten digits over photographs: what `digit_scenes` and `digit_clips` are made of.

The digits are the 8x8 scans with 17 grey levels that scikit-learn carries (`load_digits`), enlarged by a
cubic B-spline; the backgrounds are crops of photographs in scikit-image's wheel. Nothing is downloaded.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from segjax.core.batch import NO_INSTANCE

CLASS_NAMES = ("background", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

PALETTE = np.array(
    [
        (0, 0, 0),
        (230, 25, 75),
        (60, 180, 75),
        (255, 225, 25),
        (0, 90, 220),
        (245, 130, 48),
        (145, 30, 180),
        (70, 240, 240),
        (240, 50, 230),
        (150, 90, 30),
        (250, 190, 212),
    ],
    np.uint8,
)

LICENCE = (
    "Digit scans: Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, UCI Machine Learning "
    "Repository), CC BY 4.0. Backgrounds: photographs in scikit-image's wheel, each CC0, in the public "
    "domain or without known copyright restrictions; see skimage.data."
)

CITATION = """@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  howpublished = {UCI Machine Learning Repository},
  year = {1998},
  doi = {10.24432/C50P49}
}
@article{scikit-image,
  author = {van der Walt, S. and others},
  title = {scikit-image: image processing in Python},
  journal = {PeerJ},
  volume = {2},
  pages = {e453},
  year = {2014}
}"""

SPLIT_SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
"""Which part of the scans of each digit a split draws from; no scan is in two splits."""

_PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "chelsea", "coffee", "coins",
    "grass", "gravel", "hubble_deep_field", "moon", "rocket",
)  # fmt: skip
_UPSAMPLING = 8
_INK_THRESHOLD = 0.45  # of full ink: lower closes the holes of 4 and 8, higher breaks thin strokes
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclasses.dataclass(frozen=True)
class Digit:
    """A digit as it lies in a picture.

    Attributes:
      scan: uint8 [80, 80], an enlarged scan as `enlarged_scans` gives it.
      value: 0..9; its class is value + 1.
      size: side of the square that the 8x8 scan fills, pixels.
      angle: degrees, counter-clockwise.
      centre: (y, x) of the scan's centre, pixels; (0, 0) is the top left corner of the first pixel.
      ink: RGB colour, 0..255.
      opacity: 0..1, how much of the background the ink hides.
    """

    scan: np.ndarray
    value: int
    size: float
    angle: float
    centre: tuple[float, float]
    ink: tuple[float, float, float] = (0.0, 0.0, 0.0)
    opacity: float = 1.0


@dataclasses.dataclass(frozen=True)
class Ink:
    """Where a digit's ink lies: `alpha`, float32 [h, w] in 0..1, for the pixels `window` of the picture."""

    window: tuple[slice, slice]
    alpha: np.ndarray

    @property
    def covers(self) -> np.ndarray:
        """bool [h, w]: at least half of the pixel is under ink, which makes it the digit's in a label."""
        return self.alpha >= 0.5


@functools.cache
def enlarged_scans(split: str) -> tuple[np.ndarray, ...]:
    """The scans of a split: ten arrays, uint8 [count, 80, 80], one a digit; 255 is full ink.

    Each 8x8 scan gets a border of one empty cell and is enlarged eightfold by the cubic B-spline through it.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    bounds = np.cumsum([0.0, *SPLIT_SHARES.values()])
    which = list(SPLIT_SHARES).index(split)
    scans = []
    for value in range(10):
        mine = np.flatnonzero(digits.target == value)
        mine = np.random.default_rng([0, value]).permutation(mine)
        first, last = np.round(bounds[which : which + 2] * len(mine)).astype(int)
        scans.append(_enlarge(digits.images[mine[first:last]]))
    return tuple(scans)


def _enlarge(scans: np.ndarray) -> np.ndarray:
    padded = np.pad(scans / 16.0, ((0, 0), (1, 1), (1, 1)))
    spline = _spline_matrix(padded.shape[1], _UPSAMPLING)
    return (255 * np.clip(spline @ padded @ spline.T, 0, 1) + 0.5).astype(np.uint8)


@functools.cache
def photographs() -> tuple[np.ndarray, ...]:
    """The backgrounds, uint8 [H, W, 3] each; the grey ones have three equal channels."""
    from skimage import data

    images = []
    for name in _PHOTOGRAPHS:
        image = getattr(data, name)()
        images.append(np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image[..., :3])
    return tuple(images)


def random_background(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A flipped, tinted crop of a photograph, with changed contrast: uint8 [height, width, 3]."""
    photographs_ = photographs()
    photograph = photographs_[rng.integers(len(photographs_))]
    height, width = shape
    zoom = rng.uniform(0.9, 2.0)
    limit = min(photograph.shape[0] / height, photograph.shape[1] / width)
    crop = np.floor(min(zoom, limit) * np.array(shape)).astype(int)
    top, left = (int(rng.integers(0, n - 1)) for n in photograph.shape[:2] - crop + 2)
    image = Image.fromarray(photograph[top : top + crop[0], left : left + crop[1]])
    image = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    tint = rng.uniform(0.75, 1.25, 3)
    image = (image - image.mean()) * rng.uniform(0.3, 0.7) + rng.uniform(50, 120)
    return np.clip(image * tint, 0, 255).astype(np.uint8)


def ink_of(digit: Digit, shape: tuple[int, int]) -> Ink:
    """Where a digit's ink lies in a picture of `shape` (height, width); what lies outside is cut off."""
    side = digit.scan.shape[0]
    scale = (side - 2 * _UPSAMPLING) / digit.size
    angle = np.deg2rad(digit.angle)
    reach = (abs(np.cos(angle)) + abs(np.sin(angle))) * side / scale / 2
    low = [min(max(int(c - reach), 0), n) for c, n in zip(digit.centre, shape, strict=True)]
    high = [max(min(int(c + reach) + 1, n), k) for c, n, k in zip(digit.centre, shape, low, strict=True)]
    window = (slice(low[0], high[0]), slice(low[1], high[1]))
    height, width = high[0] - low[0], high[1] - low[1]
    if height == 0 or width == 0:
        return Ink(window, np.zeros((height, width), np.float32))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    y, x = digit.centre[0] - low[0], digit.centre[1] - low[1]
    # Pillow maps output to input: x_in = a x + b y + c, y_in = d x + e y + f, with pixel edges at integers.
    matrix = (cos, -sin, side / 2 - cos * x + sin * y, sin, cos, side / 2 - sin * x - cos * y)
    patch = Image.fromarray(digit.scan).transform(
        (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    patch = np.asarray(patch, np.float32) / 255
    return Ink(window, np.clip((patch - _INK_THRESHOLD) * np.float32(digit.size / 6) + 0.5, 0, 1))


def compose(
    background: np.ndarray, digits: Sequence[Digit], inks: Sequence[Ink]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay digits over a background, later ones over earlier ones.

    Args:
      background: uint8 [H, W, 3].
      inks: `ink_of` each digit.
    Returns:
      The image, float32 [H, W, 3] in 0..255; its label, uint8 [H, W]: the class of the topmost digit whose ink
      covers at least half of a pixel, 0 where there is none; and that digit's number among `digits`, uint8 [H, W],
      NO_INSTANCE where there is none.
    """
    image = background.astype(np.float32)
    label = np.zeros(image.shape[:2], np.uint8)
    instance = np.full_like(label, NO_INSTANCE)
    for number, (digit, ink) in enumerate(zip(digits, inks, strict=True)):
        label[ink.window][ink.covers] = digit.value + 1
        instance[ink.window][ink.covers] = number
        under = image[ink.window]
        under += (digit.opacity * ink.alpha)[..., None] * (np.array(digit.ink, np.float32) - under)
    return image, label, instance


def random_digit(
    rng: np.random.Generator,
    scans: Sequence[np.ndarray],
    shape: tuple[int, int],
    *,
    size: tuple[float, float],
    angle: float,
) -> Digit:
    """A black digit of random value, scan and place in a picture of `shape` (height, width).

    Args:
      scans: of the split, from `enlarged_scans`.
      size: range of the side, pixels.
      angle: largest rotation, degrees.
    """
    value = int(rng.integers(10))
    side = rng.uniform(*size)
    return Digit(
        scan=scans[value][rng.integers(len(scans[value]))],
        value=value,
        size=side,
        angle=rng.uniform(-angle, angle),
        centre=tuple(rng.uniform(0.45 * side, length - 0.45 * side) for length in shape),
    )


def coloured(rng: np.random.Generator, digit: Digit, ink: Ink, background: np.ndarray, contrast: float) -> Digit:
    """The digit with a random opacity, and an ink whose luma is above that of the background under it.

    Args:
      background: uint8 [H, W, 3].
      contrast: least difference of the lumas before the opacity, 0..255; white where no colour has it.
    """
    under = background[ink.window][ink.covers]
    target = float(under.mean(axis=0) @ _LUMA) if len(under) else 127.0
    colours = rng.uniform(0, 255, (20, 3))
    far = np.flatnonzero(colours @ _LUMA - target >= contrast)
    colour = colours[far[0]] if len(far) else np.full(3, 255.0)
    return dataclasses.replace(digit, ink=tuple(colour), opacity=rng.uniform(0.8, 1.0))


def add_noise(rng: np.random.Generator, image: np.ndarray, deviation: float) -> np.ndarray:
    """Gaussian noise, then rounding: float32 [H, W, 3] in 0..255 -> uint8 of the same shape.

    The noise is a random cut of one large tile, since drawing it anew would take longer than the whole scene.
    """
    height, width, _ = image.shape
    tile = _noise_tile()
    top, left = rng.integers(tile.shape[0] - height), rng.integers(tile.shape[1] - width)
    noise = tile[top : top + height, left : left + width] * np.float32(deviation)
    return np.clip(image + noise + np.float32(0.5), 0, 255).astype(np.uint8)


@functools.cache
def _noise_tile() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((512, 512, 3), np.float32)


def _spline_matrix(cells: int, factor: int) -> np.ndarray:
    """[cells * factor, cells]: takes values at the cells' centres to the fine pixels' centres."""

    def spline(at):
        distance = np.abs(at[:, None] - np.arange(cells))
        near = 2 / 3 - distance**2 + distance**3 / 2
        far = np.clip(2 - distance, 0, None) ** 3 / 6
        return np.where(distance < 1, near, far)

    # A spline through the values has as coefficients the values taken back through its matrix at the centres.
    fine = (np.arange(cells * factor) + 0.5) / factor - 0.5
    return spline(fine) @ np.linalg.inv(spline(np.arange(cells)))

"""Joint transforms of image and label in NumPy, each a function of the example and an explicit generator.

Each draws its numbers (`segjax.data.augment.parameters`) and applies them. `segjax.data.augment.device_transforms`
applies the same numbers in JAX.

An example is a mapping with `image` [H, W, 3], uint8 or float32 in 0..255, and `label` [H, W], uint8 with
IGNORE_LABEL, or a clip, [T, H, W, 3] and [T, H, W], all frames of which get the same random parameters. Where there is
an `instance` it goes the way of the label. A transform returns a new dict; the example is not changed, and other keys
pass through.

Geometry: pixel i covers [i, i + 1) and its value stands at i + 0.5 (half-pixel centres). The image is
interpolated bilinearly, the label takes the nearest pixel. What lies outside of the image has the image mean
(`fill`), IGNORE_LABEL and NO_INSTANCE, which are one value. A uint8 image stays uint8, rounded, until `normalise`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from segjax.core.batch import IGNORE_LABEL
from segjax.core.config import nearest
from segjax.data.augment import parameters
from segjax.data.augment.border_weight import add_border_weight
from segjax.data.augment.warp import bilinear, cubic_weights

Example = Mapping[str, Any]
Part = Sequence[tuple[int, int]]
"""Of a map the rows (first, one after the last) and the columns."""

OFF: dict[str, Any] = {
    "scale": (1.0, 1.0),
    "flip_horizontal": 0.0,
    "flip_vertical": 0.0,
    "photometric": 0.0,
    "rotation": 0.0,
    "elastic": 0.0,
}
"""The keys of `augment` in `build_transforms`, with the value that turns each off."""

MAX_PHOTOMETRIC = 2.0

LEVELS = np.arange(256, dtype=np.float32)

UNTIL = ("normalised", "transformed", "drawn")
"""How far the host goes, see `build_transforms`."""


@dataclasses.dataclass(frozen=True)
class Transforms:
    """`transforms(example, rng)`: draw, apply, weigh, normalise, in this order, as far as `until`. Can be pickled."""

    augment: Mapping[str, Any]
    crop_size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str = "rgb"
    border_weight: Mapping[str, Any] | None = None
    instances: bool = False
    until: str = "normalised"

    def __call__(self, example: Example, rng: np.random.Generator) -> dict[str, Any]:
        _check_example(example)
        if not self.instances:  # semantic segmentation needs none, so that they need not be transformed
            example = {name: value for name, value in example.items() if name != "instance"}
        drawn = parameters.draw(rng, example["label"].shape[-2:], self.augment, self.crop_size)
        if self.until == "drawn":
            if example["image"].dtype != np.uint8 or example["image"].ndim != 3:
                received = f"{example['image'].dtype} {list(example['image'].shape)}"
                raise ValueError(f"the device transforms images, uint8 [H, W, 3]; received {received}")
            return {**example, "parameters": parameters.for_device(drawn)}
        example = apply(example, drawn, self.crop_size, fill=self.mean)
        if self.border_weight:
            example = add_border_weight(example, **self.border_weight)
        if self.until == "normalised":
            example = normalise(example, mean=self.mean, std=self.std, channel_order=self.channel_order)
        arrays = {name: np.ascontiguousarray(example[name]) for name in ("image", *label_maps(example))}
        return {**example, **arrays}


def build_transforms(
    augment: Mapping[str, Any],
    crop_size: tuple[int, int] | None,
    mean: Sequence[float],
    std: Sequence[float],
    border_weight: Mapping[str, Any] | None = None,
    channel_order: str = "rgb",
    instances: bool = False,
    until: str = "normalised",
) -> Transforms:
    """The transforms of training examples (or of evaluation: `augment` empty and `crop_size` None).

    The order is rotation, elastic deformation, scale, crop, flips, photometric distortion, border weight,
    normalisation: rotation and deformation at the size of the input, so that they see what a crop would have
    cut off, and colours and weights last, when there are fewest pixels.

    Args:
      augment: keys of `OFF`, absent ones are off. scale: (low, high) of `random_scale`. flip_horizontal,
        flip_vertical: probabilities. photometric: strength of `photometric_distortion`, True is 1. rotation:
        largest angle in degrees. elastic: standard deviation of the displacements in pixels.
      crop_size: (height, width) of the result, or None (or (0, 0)) to keep the size.
      mean, std: of R, G, B, in units of 0..255; the mean is also the colour of padding.
      channel_order: of the result, see `normalise`.
      border_weight: w0, sigma and object_classes of `segjax.data.augment.border_weight`; None or a w0 of 0 is off.
      instances: keep the `instance` of examples that have one.
      until: where the host stops and `segjax.data.augment.device_stage` goes on. "transformed" leaves out the
        normalisation, "drawn" transforms nothing and adds `parameters`, the result of
        `segjax.data.augment.parameters.draw`.
    Returns:
      A callable, `(example, rng) -> example` with image float32 [H, W, 3], normalised, label uint8 [H, W] and,
      where border_weight is on, weight float32 [H, W]. What it returns is a function of the example and the
      generator's state alone.
    Raises:
      ValueError: an unknown key or a value out of its range. When called: an image and label that do not
      match.
    """
    for key in augment:
        if key not in OFF:
            raise ValueError(f"augment.{key} is unknown; {nearest(key, OFF)}")
    values = {**OFF, **augment}
    low, high = _pair("augment.scale", values["scale"])
    _check_range("augment.scale", values["scale"], 0 < low <= high < math.inf, "(low, high) with 0 < low <= high")
    for key in ("flip_horizontal", "flip_vertical"):
        _check_range(f"augment.{key}", values[key], 0 <= values[key] <= 1, "a probability")
    strength = float(values["photometric"])
    _check_range("augment.photometric", strength, 0 <= strength <= MAX_PHOTOMETRIC, f"in [0, {MAX_PHOTOMETRIC}]")
    _check_range("augment.rotation", values["rotation"], 0 <= values["rotation"] <= 180, "in [0, 180] degrees")
    _check_range("augment.elastic", values["elastic"], 0 <= values["elastic"] < math.inf, "0 or more pixels")
    mean, std = tuple(map(float, mean)), tuple(map(float, std))
    _check_range("mean", mean, len(mean) == 3, "one value a channel, 3")
    _check_range("std", std, len(std) == 3 and min(std) > 0, "one positive value a channel, 3")

    height, width = (0, 0) if crop_size is None else map(int, _pair("crop_size", crop_size))
    _check_range(
        "crop_size",
        crop_size,
        (height > 0) == (width > 0) and min(height, width) >= 0,
        "None or (height, width)",
    )
    border = None
    if border_weight and border_weight["w0"]:
        w0, sigma = float(border_weight["w0"]), float(border_weight["sigma"])
        _check_range("border_weight.w0", w0, 0 < w0 < math.inf, "0 or more")
        _check_range("border_weight.sigma", sigma, 0 < sigma < math.inf, "above 0 pixels")
        border = {"w0": w0, "sigma": sigma, "object_classes": tuple(map(int, border_weight["object_classes"]))}
    if until not in UNTIL:
        raise ValueError(f"until {until!r} is unknown; {nearest(until, UNTIL)}")
    if until == "drawn" and border:
        raise ValueError(f"border_weight.w0 must be 0 where the host only draws; received {border['w0']}")
    numbers = {key: float(value) for key, value in values.items() if key != "scale"}
    augment = {**numbers, "scale": (float(low), float(high))}
    crop = (height, width) if height else None
    return Transforms(augment, crop, mean, std, channel_order, border, instances, until)


def apply(
    example: Example, drawn: Mapping[str, Any], crop_size: tuple[int, int] | None, fill: Sequence[float]
) -> dict[str, Any]:
    """The geometric and photometric transforms in their order, with the numbers that were drawn."""
    if "rotation" in drawn:
        example = rotate(example, drawn["rotation"], fill)
    if "elastic" in drawn:
        example = deform(example, drawn["elastic"], fill)
    start = drawn.get("start")
    if "size" in drawn and start is not None:  # only what is kept is made
        seen = [
            (max(0, first), min(first + kept, new))
            for first, kept, new in zip(map(int, start), crop_size, map(int, drawn["size"]), strict=True)
        ]
        example, start = resize(example, drawn["size"], seen), np.minimum(start, 0)
    elif "size" in drawn:
        example = resize(example, drawn["size"])
    if start is not None:
        example = crop(example, start, crop_size, fill)
    if "flip" in drawn:
        example = flip(example, *drawn["flip"])
    if "photometric" in drawn:
        example = distort_colours(example, **drawn["photometric"])
    return dict(example)


def label_maps(example: Example) -> dict[str, np.ndarray]:
    """What is a number for each pixel, and goes where the pixel goes."""
    return {name: example[name] for name in ("label", "instance") if name in example}


def random_scale(example: Example, rng: np.random.Generator, *, low: float = 0.5, high: float = 2.0) -> dict[str, Any]:
    """Resize by a factor that is uniform in [low, high], the same for both axes."""
    return resize(example, parameters.draw_scale(rng, example["label"].shape[-2:], low, high))


def resize(example: Example, size: Sequence[int], part: Part | None = None) -> dict[str, Any]:
    """Image and label maps at `size` (height, width), or a part of them."""
    height, width = map(int, size)
    return {
        **example,
        "image": resize_image(example["image"], (height, width), part),
        **{name: resize_label(array, (height, width), part) for name, array in label_maps(example).items()},
    }


def random_crop(
    example: Example, rng: np.random.Generator, *, size: tuple[int, int], fill: Sequence[float]
) -> dict[str, Any]:
    """Cut a window of `size` (height, width) at a uniformly random place.

    Along an axis where the image is smaller than the window it lies whole at a random place in it, and the
    rest is padding: `fill` (per channel, 0..255) in the image, IGNORE_LABEL in the label.
    """
    return crop(example, parameters.draw_crop(rng, example["label"].shape[-2:], size), size, fill)


def crop(example: Example, starts: Sequence[int], size: tuple[int, int], fill: Sequence[float]) -> dict[str, Any]:
    """The window of `size` whose first pixel is `starts` (top, left) of the image, which may be negative."""
    label = example["label"]
    source, target = [], []
    for length, window, start in zip(label.shape[-2:], size, map(int, starts), strict=True):
        extent = min(length, window)
        source.append(slice(max(start, 0), max(start, 0) + extent))
        target.append(slice(max(-start, 0), max(-start, 0) + extent))
    arrays = {"image": example["image"][..., *source, :]}
    arrays |= {name: array[..., *source] for name, array in label_maps(example).items()}
    if arrays["label"].shape[-2:] == tuple(size):
        return {**example, **arrays}
    frames = label.shape[:-2]
    padded = {name: np.full((*frames, *size), IGNORE_LABEL, label.dtype) for name in label_maps(example)}
    row = np.tile(_fill_value(fill, arrays["image"].dtype), size[1])  # long rows, since NumPy is slow on an axis of 3
    padded["image"] = np.tile(row, (*frames, size[0], 1)).reshape(*frames, *size, 3)
    padded["image"][..., *target, :] = arrays["image"]
    for name in label_maps(example):
        padded[name][..., *target] = arrays[name]
    return {**example, **padded}


def random_flip(
    example: Example, rng: np.random.Generator, *, horizontal: float = 0.5, vertical: float = 0.0
) -> dict[str, Any]:
    """Mirror left-right with probability `horizontal` and top-bottom with probability `vertical`."""
    return flip(example, *parameters.draw_flip(rng, horizontal, vertical))


def flip(example: Example, left_right: bool, top_bottom: bool) -> dict[str, Any]:
    image, maps = example["image"], label_maps(example)
    if left_right:
        image, maps = image[..., ::-1, :], {name: array[..., ::-1] for name, array in maps.items()}
    if top_bottom:
        image, maps = image[..., ::-1, :, :], {name: array[..., ::-1, :] for name, array in maps.items()}
    return {**example, "image": image, **maps}


def random_rotation(
    example: Example, rng: np.random.Generator, *, degrees: float, fill: Sequence[float]
) -> dict[str, Any]:
    """Turn about the image's centre by an angle uniform in [-degrees, degrees] (positive: anticlockwise)."""
    return rotate(example, parameters.draw_rotation(rng, degrees), fill)


def rotate(example: Example, sine_cosine: np.ndarray, fill: Sequence[float]) -> dict[str, Any]:
    height, width = example["label"].shape[-2:]
    sine, cosine = sine_cosine
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32((height - 1) / 2)
    x = np.arange(width, dtype=np.float32)[None] - np.float32((width - 1) / 2)
    source_y = cosine * y + sine * x + np.float32((height - 1) / 2)
    source_x = cosine * x - sine * y + np.float32((width - 1) / 2)
    return warp(example, source_y, source_x, fill)


def elastic_deformation(
    example: Example, rng: np.random.Generator, *, std: float = 10.0, fill: Sequence[float]
) -> dict[str, Any]:
    """Smooth random deformation (Ronneberger et al. 2015, sec. 3.1).

    Displacement vectors, Gaussian with standard deviation `std` in pixels, on a coarse 3x3 grid whose outer
    points are the image's corner pixels; bicubic interpolation (Keys 1981, a = -0.5, the border repeated)
    gives the displacement of each pixel. (The paper says neither where the grid lies nor which bicubic kernel.)
    """
    return deform(example, parameters.draw_elastic(rng, std), fill)


def deform(example: Example, grid: np.ndarray, fill: Sequence[float]) -> dict[str, Any]:
    height, width = example["label"].shape[-2:]
    move_y, move_x = cubic_weights(height) @ grid @ cubic_weights(width).T
    source_y = np.arange(height, dtype=np.float32)[:, None] + move_y
    source_x = np.arange(width, dtype=np.float32)[None] + move_x
    return warp(example, source_y, source_x, fill)


def photometric_distortion(example: Example, rng: np.random.Generator, *, strength: float = 1.0) -> dict[str, Any]:
    """Random colours as in SSD (Liu et al. 2016, sec. 2.2) and mmsegmentation's PhotoMetricDistortion.

    Each with probability 1/2, at strength s: brightness, + uniform in [-32 s, 32 s]; contrast, times uniform
    in [1 - s/2, 1 + s/2], before or after what follows (probability 1/2 each); saturation in HSV, times
    uniform in [1 - s/2, 1 + s/2]; hue, + uniform in [-18 s, 18 s] degrees. Values are rounded to 8 bits and
    clipped to 0..255 after each, as there; a float32 image is rounded likewise. Hue is in steps of 360/256
    degrees.
    """
    return distort_colours(example, **parameters.draw_photometric(rng, strength))


def distort_colours(
    example: Example, *, shift: float, contrast: float, saturation: float, hue: int, contrast_first: bool
) -> dict[str, Any]:
    image = example["image"]
    pixels = image if image.dtype == np.uint8 else _to_uint8(image)
    before, after = _to_uint8(LEVELS + shift), _to_uint8(LEVELS * contrast)
    if contrast_first:
        before, after = after[before], _to_uint8(LEVELS)
    pixels = _looked_up(before, pixels)
    if saturation != 1.0 or hue:
        rows = pixels.reshape(-1, *pixels.shape[-2:])
        hsv = np.array(Image.fromarray(rows).convert("HSV"))
        hsv[..., 0] += np.uint8(hue % 256)
        hsv[..., 1] = _looked_up(_to_uint8(LEVELS * saturation), hsv[..., 1])
        pixels = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB")).reshape(pixels.shape)
    return {**example, "image": _looked_up(after, pixels).astype(image.dtype, copy=False)}


def _looked_up(table: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """table[pixels], both uint8, in a third of the time; the pixels themselves where the table changes nothing."""
    if np.array_equal(table, LEVELS):
        return pixels
    return np.frombuffer(pixels.tobytes().translate(table.tobytes()), np.uint8).reshape(pixels.shape)


def normalise(
    example: Example, *, mean: Sequence[float], std: Sequence[float], channel_order: str = "rgb"
) -> dict[str, Any]:
    """image -> (image - mean) / std per channel, float32 and C-contiguous.

    Image, mean and std are R, G, B; the result is B, G, R where channel_order is "bgr".
    """
    image = np.array(example["image"], np.float32, order="C")
    rows = image.reshape(-1, image.shape[-2] * 3)  # long rows, since NumPy is slow on an axis of 3
    rows -= np.tile(np.asarray(mean, np.float32), image.shape[-2])
    rows /= np.tile(np.asarray(std, np.float32), image.shape[-2])
    image = np.ascontiguousarray(image[..., ::-1]) if channel_order == "bgr" else image
    return {**example, "image": image}


def resize_image(image: np.ndarray, size: tuple[int, int], part: Part | None = None) -> np.ndarray:
    """Bilinear resizing of [..., H, W, 3], uint8 or float32, to (height, width); the dtype stays.

    Half-pixel centres. When shrinking, the triangle is as wide as the step (antialiasing, as in Pillow and
    `jax.image.resize`). A part of a uint8 image is that of the whole but for a level here and there.
    """
    if image.shape[-3:-1] == tuple(size):
        return image if part is None else image[..., slice(*part[0]), slice(*part[1]), :]
    if image.ndim > 3:
        return np.stack([resize_image(frame, size, part) for frame in image])
    height, width = size
    if image.dtype == np.uint8:
        (top, bottom), (left, right) = part or ((0, height), (0, width))
        down, along = image.shape[0] / height, image.shape[1] / width
        box = (left * along, top * down, min(right * along, image.shape[1]), min(bottom * down, image.shape[0]))
        of_part = Image.fromarray(image).resize((right - left, bottom - top), Image.Resampling.BILINEAR, box)
        return np.asarray(of_part)
    channels = [
        np.asarray(Image.fromarray(image[..., c]).resize((width, height), Image.Resampling.BILINEAR)) for c in range(3)
    ]
    whole = np.stack(channels, axis=-1)
    return whole if part is None else whole[slice(*part[0]), slice(*part[1])]


def resize_label(label: np.ndarray, size: tuple[int, int], part: Part | None = None) -> np.ndarray:
    """Nearest-neighbour resizing of [..., H, W] to (height, width), half-pixel centres; the dtype stays."""
    rows, columns = (
        (2 * np.arange(*seen) + 1) * old // (2 * new)
        for old, new, seen in zip(label.shape[-2:], size, part or ((0, size[0]), (0, size[1])), strict=True)
    )
    return label.take(rows, axis=-2).take(columns, axis=-1)  # one index with both is six times as slow


def warp(example: Example, y: np.ndarray, x: np.ndarray, fill: Sequence[float]) -> dict[str, Any]:
    """Read image and label maps at (y, x), float32 [H, W], in pixels with 0 at the first pixel's centre."""
    image, (height, width) = example["image"], example["label"].shape[-2:]
    outside = (y < -0.5) | (y >= height - 0.5) | (x < -0.5) | (x >= width - 0.5)
    near_y = np.floor(y + np.float32(0.5)).astype(np.intp).clip(0, height - 1)
    near_x = np.floor(x + np.float32(0.5)).astype(np.intp).clip(0, width - 1)
    new_maps = {}
    for name, array in label_maps(example).items():
        new_maps[name] = array.reshape(*array.shape[:-2], -1).take(near_y * width + near_x, axis=-1)
        new_maps[name][..., outside] = IGNORE_LABEL
    y, x = y.clip(0, height - 1), x.clip(0, width - 1)
    if image.ndim == 3:
        new_image = bilinear(image, y, x)
    else:
        new_image = np.stack([bilinear(frame, y, x) for frame in image])
    new_image[..., outside, :] = _fill_value(fill, image.dtype)
    return {**example, "image": new_image, **new_maps}


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _fill_value(fill: Sequence[float], dtype: np.dtype) -> np.ndarray:
    values = np.asarray(fill, np.float32)
    return _to_uint8(values) if dtype == np.uint8 else values.astype(dtype)


def _check_example(example: Example) -> None:
    image, label = example["image"], example["label"]
    if image.shape != (*label.shape, 3) or image.dtype not in (np.uint8, np.float32) or label.dtype != np.uint8:
        raise ValueError(
            "image must be uint8 or float32 [H, W, 3] and label uint8 [H, W] of the same size; received image"
            f" {image.dtype} {list(image.shape)} and label {label.dtype} {list(label.shape)}"
        )


def _pair(name: str, value: Any) -> tuple[float, float]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"{name} must be a pair; received {value!r}")
    return value[0], value[1]


def _check_range(name: str, value: Any, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}; received {value}")

"""The random numbers of one example's transforms, drawn apart from where they are applied.

`segjax.data.augment.transforms` applies them in NumPy, `segjax.data.augment.device_transforms` in JAX. What is drawn
depends on the generator and on sizes alone, never on pixels, so both see the same numbers.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Size = tuple[int, int]


def draw(rng: np.random.Generator, size: Size, augment: Mapping[str, Any], crop_size: Size | None) -> dict[str, Any]:
    """What the transforms of one example need, in the order in which they are applied; what is off is absent.

    Args:
      rng: the example's generator, which is advanced.
      size: (height, width) of the example.
      augment: every key of `segjax.data.augment.transforms.OFF`.
      crop_size: (height, width), or None for no crop.
    Returns:
      Some of rotation: float32 [2], sine and cosine; elastic: float32 [2, 3, 3], pixels; size: int32 [2], that of the
      scaled image; start: int32 [2], of the window in it, negative for padding before it; flip: bool [2], left-right
      and top-bottom; photometric: see `draw_photometric`.
    """
    drawn: dict[str, Any] = {}
    if augment["rotation"]:
        drawn["rotation"] = draw_rotation(rng, augment["rotation"])
    if augment["elastic"]:
        drawn["elastic"] = draw_elastic(rng, augment["elastic"])
    if tuple(augment["scale"]) != (1, 1):
        drawn["size"] = draw_scale(rng, size, *augment["scale"])
        size = tuple(drawn["size"].tolist())
    if crop_size:
        drawn["start"] = draw_crop(rng, size, crop_size)
    if augment["flip_horizontal"] or augment["flip_vertical"]:
        drawn["flip"] = draw_flip(rng, augment["flip_horizontal"], augment["flip_vertical"])
    if augment["photometric"]:
        drawn["photometric"] = draw_photometric(rng, augment["photometric"])
    return drawn


def draw_rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    angle = math.radians(rng.uniform(-degrees, degrees))
    return np.array([math.sin(angle), math.cos(angle)], np.float32)


def draw_elastic(rng: np.random.Generator, std: float) -> np.ndarray:
    return rng.normal(scale=std, size=(2, 3, 3)).astype(np.float32)


def draw_scale(rng: np.random.Generator, size: Size, low: float, high: float) -> np.ndarray:
    factor = rng.uniform(low, high)
    return np.array([max(1, round(length * factor)) for length in size], np.int32)


def draw_crop(rng: np.random.Generator, size: Size, window: Size) -> np.ndarray:
    spare = [length - wanted for length, wanted in zip(size, window, strict=True)]
    return np.array([rng.integers(min(s, 0), max(s, 0) + 1) for s in spare], np.int32)


def draw_flip(rng: np.random.Generator, horizontal: float, vertical: float) -> np.ndarray:
    return rng.random(2) < (horizontal, vertical)


def draw_photometric(rng: np.random.Generator, strength: float) -> dict[str, Any]:
    """shift in levels; contrast and saturation, factors, 1 for none; hue in 1/256 turns; contrast_first."""
    on = rng.random(4) < 0.5
    contrast_first = rng.random() < 0.5
    low, high = 1 - strength / 2, 1 + strength / 2
    return {
        "shift": rng.uniform(-32, 32) * strength * on[0],
        "contrast": rng.uniform(low, high) if on[1] else 1.0,
        "saturation": rng.uniform(low, high) if on[2] else 1.0,
        "hue": round(rng.uniform(-18, 18) * strength * on[3] * 256 / 360),
        "contrast_first": contrast_first,
    }


def for_device(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The same as arrays whose dtypes do not depend on the values, to be batched."""
    if "photometric" not in drawn:
        return dict(drawn)
    dtypes = {"hue": np.int32, "contrast_first": np.bool_}
    photometric = drawn["photometric"].items()
    return {**drawn, "photometric": {name: np.asarray(v, dtypes.get(name, np.float32)) for name, v in photometric}}

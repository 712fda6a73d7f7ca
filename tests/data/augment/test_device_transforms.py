"""The transforms in JAX against those in NumPy and Pillow, with the same drawn numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from segjax.core.batch import IGNORE_LABEL
from segjax.data.augment import device_transforms, parameters, transforms

FILL = (110.4, 120.6, 90.0)
SIZE, CROP = (21, 34), (26, 19)  # padded along one axis or both
EVERYTHING = {
    "scale": (0.5, 2.0),
    "flip_horizontal": 0.5,
    "flip_vertical": 0.5,
    "photometric": 1.0,
    "rotation": 30.0,
    "elastic": 4.0,
}


def example(seed):
    """Noise for odd seeds, a smooth picture with saturated colours for even ones."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC))
    return {
        "image": rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8) if seed % 2 else picture,
        "label": rng.choice(np.array([0, 1, 2, 3, IGNORE_LABEL], np.uint8), SIZE),
        "instance": rng.integers(0, 9, SIZE).astype(np.uint8),
    }


@pytest.mark.parametrize(
    ("keys", "crop", "levels"),
    [
        (("flip_horizontal", "flip_vertical"), None, 0),
        (("scale",), CROP, 1),
        (("flip_horizontal", "flip_vertical"), CROP, 0),
        (("rotation",), None, 1),
        (("elastic",), None, 1),
        (("photometric",), None, 1),
        (tuple(EVERYTHING), CROP, 8),
    ],
)
def test_the_same_numbers_give_the_same_example(keys, crop, levels):
    """Labels: equal, but that float32 may round a warp's point on the border of two pixels to the other one.

    Levels: Pillow resizes in fixed point, 22 bits after the point, and a sum of products may be contracted, so what
    lies at half a level may go to the other one. In the photometric part, whose steps follow these, one level of a
    channel moves the hue, on which another channel hangs with up to 6 levels, and a contrast of at most 1.5 follows.
    """
    augment = {**transforms.OFF, **{key: EVERYTHING[key] for key in keys}}
    examples = [example(seed) for seed in range(24)]
    drawn = [parameters.draw(np.random.default_rng(seed), SIZE, augment, crop) for seed in range(24)]
    expected = [transforms.apply(one, numbers, crop, FILL) for one, numbers in zip(examples, drawn, strict=True)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *map(parameters.for_device, drawn))
    batch = {name: np.stack([one[name] for one in examples]) for name in examples[0]}
    image = batch.pop("image")
    apply = jax.vmap(lambda image, maps, drawn: device_transforms.apply(image, maps, drawn, crop, FILL))
    image, maps = jax.jit(apply)(image, batch, stacked)
    for name in ("label", "instance"):
        wanted = np.stack([one[name] for one in expected])
        assert maps[name].dtype == np.uint8
        assert (maps[name] != wanted).mean() <= (1e-3 if {"rotation", "elastic"} & set(keys) else 0)
    wanted = np.stack([one["image"] for one in expected]).astype(np.float32)
    error = np.abs(np.asarray(image) - wanted)
    assert error.max() <= levels
    assert (error > 0).mean() < 0.02
    assert (error > 1).mean() < 0.005
    assert (np.asarray(image) == np.round(image)).all()


def test_hsv_is_that_of_pillow():
    """Exactly; a grid of colours, those that float32 rounds down, and random ones. (All 2^24 were compared once.)"""
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    turn = np.arange(510)
    ties = np.stack([abs(turn - 255) - 85, 170 - abs(turn - 170), 170 - abs(turn - 340)], -1).clip(0, 85)
    rest = np.random.default_rng(0).integers(0, 256, (60_000, 3))
    colours = np.concatenate([grid, ties, 2 * ties, 3 * ties, rest]).astype(np.uint8)[None]
    h, s, v = jax.jit(device_transforms.to_hsv)(colours.astype(np.float32))
    hsv = np.asarray(Image.fromarray(colours).convert("HSV"))
    np.testing.assert_array_equal(np.stack([h, s, v], -1), hsv)
    rgb = jax.jit(device_transforms.from_hsv)(*np.moveaxis(colours.astype(np.float32), -1, 0))
    np.testing.assert_array_equal(rgb, np.asarray(Image.fromarray(colours, "HSV").convert("RGB")))


def test_numbers_are_drawn_in_this_order():
    """A resumed training of an earlier version goes on with the same numbers."""
    augment = {**EVERYTHING, "flip_vertical": 0.1}
    for seed in range(8):
        drawn, rng = parameters.draw(np.random.default_rng(seed), SIZE, augment, CROP), np.random.default_rng(seed)
        angle = np.deg2rad(rng.uniform(-30, 30))
        np.testing.assert_allclose(drawn["rotation"], [np.sin(angle), np.cos(angle)], atol=1e-7)
        np.testing.assert_array_equal(drawn["elastic"], np.float32(rng.normal(scale=4.0, size=(2, 3, 3))))
        factor = rng.uniform(0.5, 2.0)
        size = [round(length * factor) for length in SIZE]
        assert drawn["size"].tolist() == size
        spare = [length - window for length, window in zip(size, CROP, strict=True)]
        assert drawn["start"].tolist() == [rng.integers(min(s, 0), max(s, 0) + 1) for s in spare]
        assert drawn["flip"].tolist() == (rng.random(2) < [0.5, 0.1]).tolist()
        on, first = rng.random(4) < 0.5, rng.random() < 0.5
        colour = drawn["photometric"]
        assert colour["contrast_first"] == first
        assert colour["shift"] == rng.uniform(-32, 32) * on[0]
        assert colour["contrast"] == (rng.uniform(0.5, 1.5) if on[1] else 1)
        assert colour["saturation"] == (rng.uniform(0.5, 1.5) if on[2] else 1)
        assert colour["hue"] == round(rng.uniform(-18, 18) * on[3] * 256 / 360)


def test_where_the_host_stops_changes_no_number():
    normalisation = dict(mean=FILL, std=(50.0, 60.0, 70.0))
    steps = {
        until: transforms.build_transforms(EVERYTHING, CROP, **normalisation, instances=True, until=until)
        for until in transforms.UNTIL
    }
    for seed in range(4):
        generators = {until: np.random.default_rng(seed) for until in steps}
        results = {until: transform(example(seed), generators[until]) for until, transform in steps.items()}
        assert len({str(rng.bit_generator.state) for rng in generators.values()}) == 1
        whole, transformed, drawn = (results[until] for until in transforms.UNTIL)
        assert transformed["image"].dtype == np.uint8
        np.testing.assert_array_equal(transforms.normalise(transformed, **normalisation)["image"], whole["image"])
        np.testing.assert_array_equal(drawn["image"], example(seed)["image"])
        numbers = drawn["parameters"]
        numbers = {**numbers, "photometric": {k: v.item() for k, v in numbers["photometric"].items()}}
        again = transforms.apply(example(seed), numbers, CROP, FILL)
        np.testing.assert_array_equal(again["image"], transformed["image"])
        for name in ("label", "instance"):
            np.testing.assert_array_equal(again[name], whole[name])


@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_normalisation(channel_order):
    options = dict(mean=FILL, std=(50.0, 60.0, 70.0), channel_order=channel_order)
    expected = transforms.normalise(example(0), **options)["image"]
    image = jnp.asarray(example(0)["image"], jnp.float32)
    np.testing.assert_allclose(device_transforms.normalise(image, **options), expected, atol=1e-6)


def test_refusals():
    arguments = ({}, None, FILL, (1.0,) * 3)
    with pytest.raises(ValueError, match="until 'draw' is unknown; did you mean 'drawn'"):
        transforms.build_transforms(*arguments, until="draw")
    border = {"w0": 1.0, "sigma": 2.0, "object_classes": ()}
    with pytest.raises(ValueError, match="border_weight.w0 must be 0 where the host only draws"):
        transforms.build_transforms(*arguments, border_weight=border, until="drawn")
    clip = {"image": np.zeros((2, 5, 6, 3), np.uint8), "label": np.zeros((2, 5, 6), np.uint8)}
    with pytest.raises(ValueError, match="transforms images, uint8 .*received uint8 .2, 5, 6, 3."):
        transforms.build_transforms(*arguments, until="drawn")(clip, np.random.default_rng(0))

import colorsys
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segjax.core.batch import IGNORE_LABEL
from segjax.data.augment import parameters, transforms
from tests.references import transforms as reference

FILL = (110.4, 120.6, 90.0)
EVERYTHING = {
    "scale": (0.5, 2.0),
    "flip_horizontal": 0.5,
    "flip_vertical": 0.5,
    "photometric": 1.0,
    "rotation": 30.0,
    "elastic": 4.0,
}
GEOMETRIC = {
    "scale": lambda e, rng: transforms.random_scale(e, rng, low=0.5, high=2.0),
    "crop": lambda e, rng: transforms.random_crop(e, rng, size=(17, 23), fill=FILL),
    "flip": lambda e, rng: transforms.random_flip(e, rng, horizontal=0.5, vertical=0.5),
    "rotation": lambda e, rng: transforms.random_rotation(e, rng, degrees=180.0, fill=FILL),
    "elastic": lambda e, rng: transforms.elastic_deformation(e, rng, std=3.0, fill=FILL),
}
some = settings(max_examples=30, deadline=None)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.uint8, np.float32])


def noise(size, seed=0, dtype=np.uint8, frames=()):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*frames, *size, 3)).astype(dtype)
    label = rng.choice(np.array([0, 1, 3, IGNORE_LABEL], np.uint8), (*frames, *size))
    return {"image": image, "label": label, "id": "a"}


def painted(size, seed, dtype):
    """Random classes 0..2, and an image whose channel c is 255 where the class is c."""
    label = np.random.default_rng(seed).integers(0, 3, size, dtype=np.uint8)
    return {"image": (255 * (label[..., None] == np.arange(3))).astype(dtype), "label": label}


@pytest.mark.parametrize("size", [(7, 11), (14, 22), (9, 30), (1, 1), (8, 12), (20, 13)])
def test_enlarging_equals_the_loop(size):
    image = noise((7, 11), dtype=np.float32)["image"]
    expected = reference.resize_bilinear(image, size) if min(size) > 1 else reference.resize_triangle(image, size)
    np.testing.assert_allclose(transforms.resize_image(image, size), expected, atol=1e-3)
    of_bytes = transforms.resize_image(image.astype(np.uint8), size)
    assert of_bytes.dtype == np.uint8
    # Pillow rounds after each of its two passes.
    np.testing.assert_allclose(of_bytes, expected, atol=1.01)


@pytest.mark.parametrize("size", [(5, 6), (3, 11), (7, 5), (12, 4)])
def test_shrinking_equals_the_loop(size):
    image = noise((7, 11), dtype=np.float32)["image"]
    expected = reference.resize_triangle(image, size)
    np.testing.assert_allclose(transforms.resize_image(image, size), expected, atol=1e-3)
    np.testing.assert_allclose(transforms.resize_image(image.astype(np.uint8), size), expected, atol=1.01)


@pytest.mark.parametrize("size", [(7, 11), (14, 33), (5, 6), (1, 1), (13, 4), (3, 100)])
def test_resizing_a_label_equals_the_loop(size):
    label = noise((7, 11))["label"]
    np.testing.assert_array_equal(transforms.resize_label(label, size), reference.resize_nearest(label, size))


@some
@given(sizes, sizes, sizes, seeds, dtypes, st.sampled_from([(), (2,)]))
def test_scale_and_crop_make_only_what_is_kept(size, new, kept, seed, dtype, frames):
    """Of the image one level may differ, where Pillow rounds a place; of the label nothing."""
    example = noise(size, seed, dtype, frames)
    start = parameters.draw_crop(np.random.default_rng(seed), new, kept)
    found = transforms.apply(example, {"size": new, "start": start}, kept, FILL)
    expected = transforms.crop(transforms.resize(example, new), start, kept, FILL)
    assert found["image"].dtype == dtype and found["image"].shape == expected["image"].shape
    np.testing.assert_array_equal(found["label"], expected["label"])
    np.testing.assert_allclose(found["image"].astype(int), expected["image"].astype(int), atol=1)


def test_few_values_of_a_part_are_not_those_of_the_whole():
    image, part = noise((90, 120))["image"], ((31, 111), (40, 120))
    whole = transforms.resize_image(image, (133, 177))[31:111, 40:120]
    assert (transforms.resize_image(image, (133, 177), part) != whole).mean() < 0.03


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_scale_1_is_the_identity(dtype):
    example = noise((9, 14), dtype=dtype)
    result = transforms.random_scale(example, np.random.default_rng(0), low=1.0, high=1.0)
    np.testing.assert_array_equal(result["image"], example["image"])
    np.testing.assert_array_equal(result["label"], example["label"])


def test_scale_is_uniform_over_its_range():
    example = {"image": np.zeros((100, 50, 3), np.uint8), "label": np.zeros((100, 50), np.uint8)}
    rng = np.random.default_rng(0)
    shapes = np.array([transforms.random_scale(example, rng)["label"].shape for _ in range(400)])
    assert (np.abs(shapes[:, 0] - 2 * shapes[:, 1]) <= 1.5).all()  # each side is rounded
    assert shapes[:, 0].min() >= 50
    assert shapes[:, 0].max() <= 200
    # Mean of a uniform variable, to four standard errors.
    np.testing.assert_allclose(shapes[:, 0].mean(), 125, atol=4 * 150 / np.sqrt(12 * 400))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [(9, 14), (12, 5), (1, 6)])
def test_warp_equals_the_loop(size, dtype):
    example = noise(size, dtype=dtype)
    rng = np.random.default_rng(1)
    y = rng.uniform(-2, size[0] + 1, (21, 8)).astype(np.float32)
    x = rng.uniform(-2, size[1] + 1, (21, 8)).astype(np.float32)
    result = transforms.warp(example, y, x, FILL)
    image, label = reference.warp(example["image"].astype(float), example["label"], y, x, FILL)
    assert (label == IGNORE_LABEL).any()
    np.testing.assert_array_equal(result["label"], label)
    assert result["image"].dtype == dtype
    np.testing.assert_allclose(result["image"], image, atol=0.501 if dtype == np.uint8 else 1e-3)


def test_a_quarter_turn_is_rot90():
    example = noise((11, 11))
    turned = [np.rot90(example["image"], k) for k in (1, -1)]
    for seed in range(4):
        angles = _Fixed(uniform=90.0 if seed % 2 == 0 else -90.0)
        result = transforms.random_rotation(example, angles, degrees=90.0, fill=FILL)
        np.testing.assert_array_equal(result["image"][1:-1, 1:-1], turned[seed % 2][1:-1, 1:-1])
        np.testing.assert_array_equal(
            result["label"][1:-1, 1:-1], np.rot90(example["label"], 1 if seed % 2 == 0 else -1)[1:-1, 1:-1]
        )


class _Fixed:
    """A generator that draws what the test says."""

    def __init__(self, **values):
        self._values = values

    def uniform(self, *_):
        return self._values["uniform"]

    def normal(self, *, scale, size):
        return scale * self._values["normal"].reshape(size)


@pytest.mark.parametrize("size", [(9, 14), (25, 16)])
def test_elastic_deformation_is_the_bicubic_grid(size):
    example = noise(size, dtype=np.float32)
    grid = np.random.default_rng(2).normal(size=(2, 3, 3))
    result = transforms.elastic_deformation(example, _Fixed(normal=grid), std=1.5, fill=FILL)
    y, x = np.indices(size)
    y = y + 1.5 * reference.bicubic_grid(grid[0], size)
    x = x + 1.5 * reference.bicubic_grid(grid[1], size)
    image, label = reference.warp(example["image"].astype(float), example["label"], y, x, FILL)
    np.testing.assert_array_equal(result["label"], label)
    np.testing.assert_allclose(result["image"], image, atol=0.01)


def test_a_constant_displacement_is_a_shift():
    example = noise((12, 15))
    grid = np.stack([np.full((3, 3), 2.0), np.full((3, 3), -3.0)])
    result = transforms.elastic_deformation(example, _Fixed(normal=grid), std=1.0, fill=FILL)
    np.testing.assert_array_equal(result["image"][:-2, 3:], example["image"][2:, :-3])
    np.testing.assert_array_equal(result["label"][:-2, 3:], example["label"][2:, :-3])
    assert (result["label"][-2:] == IGNORE_LABEL).all()
    assert (result["image"][:, :3] == [110, 121, 90]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (20, 1), (2, 2)])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_thin_images_work(name, size):
    result = GEOMETRIC[name](noise(size), np.random.default_rng(0))
    assert result["image"].shape == (*result["label"].shape, 3)


@some
@given(sizes, sizes, seeds, dtypes)
def test_crop_is_a_window_with_padding(size, crop, seed, dtype):
    example = noise(size, seed % 1000, dtype)
    result = transforms.random_crop(example, np.random.default_rng(seed), size=crop, fill=FILL)
    image, label = result["image"], result["label"]
    assert label.shape == crop
    assert image.shape == (*crop, 3)
    assert image.dtype == dtype
    # Find the window by its place: of all places that there can be, one must agree everywhere.
    top, left = (max(c - s, 0) for c, s in zip(crop, size, strict=True))
    padded = np.full((size[0] + 2 * top, size[1] + 2 * left), IGNORE_LABEL, np.uint8)
    padded[top : top + size[0], left : left + size[1]] = example["label"]
    fill = np.rint(FILL) if dtype == np.uint8 else np.float32(FILL)
    canvas = np.tile(fill.astype(dtype), (*padded.shape, 1))
    canvas[top : top + size[0], left : left + size[1]] = example["image"]
    places = np.ndindex(padded.shape[0] - crop[0] + 1, padded.shape[1] - crop[1] + 1)
    assert any(
        np.array_equal(padded[i : i + crop[0], j : j + crop[1]], label)
        and np.array_equal(canvas[i : i + crop[0], j : j + crop[1]], image)
        for i, j in places
    )


def test_crop_reaches_every_place():
    image = np.zeros((4, 3, 3), np.uint8)
    image[..., 0] = np.arange(12).reshape(4, 3)
    example = {"image": image, "label": np.zeros((4, 3), np.uint8)}
    rng = np.random.default_rng(0)
    corners = {int(transforms.random_crop(example, rng, size=(2, 2), fill=FILL)["image"][0, 0, 0]) for _ in range(200)}
    assert corners == {0, 1, 3, 4, 6, 7}
    places = {
        tuple(np.argwhere(transforms.random_crop(example, rng, size=(5, 5), fill=FILL)["label"] == 0)[0])
        for _ in range(200)
    }
    assert places == {(i, j) for i in range(2) for j in range(3)}


@some
@given(sizes, seeds)
def test_flipping_twice_is_the_identity(size, seed):
    example = noise(size, seed % 1000)
    for axis, name in ((-1, "horizontal"), (-2, "vertical")):
        chance = {"horizontal": 0.0, "vertical": 0.0, name: 1.0}
        once = transforms.random_flip(example, np.random.default_rng(seed), **chance)
        np.testing.assert_array_equal(once["label"], np.flip(example["label"], axis))
        np.testing.assert_array_equal(once["image"], np.flip(example["image"], axis - 1))
        twice = transforms.random_flip(once, np.random.default_rng(seed), **chance)
        np.testing.assert_array_equal(twice["image"], example["image"])
        np.testing.assert_array_equal(twice["label"], example["label"])


def test_flips_have_their_probability():
    example = {"image": np.zeros((1, 2, 3), np.uint8), "label": np.array([[0, 1]], np.uint8)}
    rng = np.random.default_rng(0)
    flips = [transforms.random_flip(example, rng, horizontal=0.3)["label"][0, 0] for _ in range(1000)]
    np.testing.assert_allclose(np.mean(flips), 0.3, atol=4 * np.sqrt(0.3 * 0.7 / 1000))


@pytest.mark.parametrize("name", sorted(GEOMETRIC))
@pytest.mark.parametrize("frames", [(), (2,)])
def test_instances_go_the_way_of_the_label(name, frames):
    example = noise((19, 26), frames=frames)
    example["instance"] = example["label"] ^ 2  # other numbers, 255 among them for 253
    moved = False
    for seed in range(5):
        result = GEOMETRIC[name](example, np.random.default_rng(seed))
        inside = result["label"] != IGNORE_LABEL
        np.testing.assert_array_equal(result["instance"][inside], result["label"][inside] ^ 2)
        moved |= not np.array_equal(result["label"], example["label"])
    assert moved


def test_instances_are_kept_where_they_are_wanted():
    example = {**noise((9, 7)), "instance": np.arange(63, dtype=np.uint8).reshape(9, 7)}
    for instances in (False, True):
        built = transforms.build_transforms({"flip_horizontal": 1.0}, None, FILL, (1.0,) * 3, instances=instances)
        result = built(example, np.random.default_rng(0))
        assert ("instance" in result) == instances
    np.testing.assert_array_equal(result["instance"], example["instance"][:, ::-1])
    assert result["instance"].flags.c_contiguous


@some
@given(sizes, seeds, st.sampled_from(sorted(GEOMETRIC)), dtypes)
def test_no_new_values(size, seed, name, dtype):
    """Labels are those of the input or IGNORE_LABEL; the image stays between its own values and the mean."""
    example = noise(size, seed % 1000, dtype)
    result = GEOMETRIC[name](example, np.random.default_rng(seed))
    assert set(np.unique(result["label"])) <= {*np.unique(example["label"]), IGNORE_LABEL}
    low = np.minimum(example["image"].min((0, 1)), np.floor(FILL))
    high = np.maximum(example["image"].max((0, 1)), np.ceil(FILL))
    assert result["image"].dtype == dtype
    assert (result["image"] >= low - 1e-3).all()
    assert (result["image"] <= high + 1e-3).all()


def agrees(image, label, share):
    """Where the label is c, channel c of the image has at least this share of 255."""
    shown = np.take_along_axis(image, np.minimum(label, 2)[..., None], axis=-1)[..., 0]
    return (shown[label != IGNORE_LABEL] >= 255 * share - 1.01).all()


@some
@given(sizes, seeds, st.sampled_from(sorted(GEOMETRIC)), dtypes)
def test_image_and_label_stay_aligned(size, seed, name, dtype):
    """The pixel that gives the label has a quarter or more of the bilinear weight, at least half an axis.

    When shrinking by a step s up to 2.5 (2, and a side of 5 rounded to 2), its weight on an axis is at least
    1 - 0.5 / s of weights that sum to about s: 0.5 at s = 1, 0.375 at 2, 0.32 at 2.5; 0.3 leaves some room.
    """
    example = painted(size, seed % 1000, dtype)
    result = GEOMETRIC[name](example, np.random.default_rng(seed))
    assert agrees(result["image"], result["label"], 0.3**2 if name == "scale" else 0.25)
    padding = result["image"][result["label"] == IGNORE_LABEL]
    np.testing.assert_allclose(padding, np.broadcast_to(FILL, padding.shape), atol=0.5)


def test_misalignment_is_seen():
    """The test above would find a label that is one pixel off."""
    example = painted((40, 40), 0, np.uint8)
    for axis in (0, 1):
        assert not agrees(example["image"], np.roll(example["label"], 1, axis), 0.3**2)


def test_photometric_distortion_without_effect_is_the_identity():
    example = noise((9, 14))
    result = transforms.photometric_distortion(example, np.random.default_rng(0), strength=0.0)
    np.testing.assert_array_equal(result["image"], example["image"])


@some
@given(seeds, dtypes)
def test_photometric_distortion_keeps_range_and_label(seed, dtype):
    example = noise((6, 7), seed % 1000, dtype)
    result = transforms.photometric_distortion(example, np.random.default_rng(seed))
    assert result["image"].dtype == dtype
    assert result["image"].min() >= 0
    assert result["image"].max() <= 255
    assert result["label"] is example["label"]


def test_photometric_distortion_acts_as_described():
    """On grey only brightness and contrast act; on a colour, hue and saturation act within their ranges."""
    grey = {"image": np.full((1, 1, 3), 100, np.uint8), "label": np.zeros((1, 1), np.uint8)}
    rng = np.random.default_rng(0)
    values = np.array([transforms.photometric_distortion(grey, rng)["image"][0, 0] for _ in range(2000)])
    assert (values == values[:, :1]).all()
    assert values.min() < 45  # (100 - 32) * 0.5 = 34 at the least
    assert values.min() >= 34
    assert values.max() > 180  # (100 + 32) * 1.5 = 198 at the most
    assert values.max() <= 198
    # Neither brightness nor contrast in a quarter of the cases (and rarely a change that rounds to none).
    np.testing.assert_allclose((values[:, 0] == 100).mean(), 0.25, atol=0.06)

    colour = {"image": np.array([[[180, 90, 60]]], np.uint8), "label": np.zeros((1, 1), np.uint8)}
    hue, saturation, _ = colorsys.rgb_to_hsv(180, 90, 60)
    hues, saturations = [], []
    for _ in range(1000):
        red, green, blue = transforms.photometric_distortion(colour, rng)["image"][0, 0].tolist()
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        if max(red, green, blue) < 255 and v > 100:  # a clipped or a dark one has another hue
            hues.append((h - hue + 0.5) % 1 - 0.5)
            saturations.append(s / saturation)
    assert 360 * np.max(np.abs(hues)) > 12
    assert np.min(hues) < 0 < np.max(hues)
    # The range, plus the grid of 256 hues and what a change of brightness by 32 does to the saturation.
    assert 360 * np.max(np.abs(hues)) < 18 + 4
    assert np.min(saturations) < 0.6
    assert np.max(saturations) > 1.3
    # Half have no change of hue, and of the others one in nine has one below 2 degrees; 8 bits move it by 1.
    assert 0.45 < np.mean(np.abs(hues) < 2 / 360) < 0.66


def test_the_same_clip_parameters_for_all_frames():
    frames = noise((20, 24))
    clip = {**frames, "image": np.stack([frames["image"]] * 3), "label": np.stack([frames["label"]] * 3)}
    transform = transforms.build_transforms(EVERYTHING, (16, 18), FILL, (50.0, 60.0, 70.0))
    for seed in range(5):
        one = transform(frames, np.random.default_rng(seed))
        all_frames = transform(clip, np.random.default_rng(seed))
        assert all_frames["image"].shape == (3, 16, 18, 3)
        for t in range(3):
            np.testing.assert_array_equal(all_frames["image"][t], one["image"])
            np.testing.assert_array_equal(all_frames["label"][t], one["label"])


@some
@given(sizes, sizes, seeds, dtypes)
def test_built_transforms_give_what_they_promise(size, crop, seed, dtype):
    example = noise(size, seed % 1000, dtype)
    before = pickle.dumps(example)
    transform = transforms.build_transforms(EVERYTHING, crop, FILL, (50.0, 60.0, 70.0))
    result = transform(example, np.random.default_rng(seed))
    assert result["image"].shape == (*crop, 3)
    assert result["label"].shape == crop
    assert result["image"].dtype == np.float32
    assert result["label"].dtype == np.uint8
    assert result["image"].flags.c_contiguous
    assert result["label"].flags.c_contiguous
    assert result["id"] == "a"
    assert set(np.unique(result["label"])) <= {0, 1, 3, IGNORE_LABEL}
    back = result["image"] * np.float32([50, 60, 70]) + np.float32(FILL)
    assert back.min() >= -1e-3
    assert back.max() <= 255 + 1e-3
    # A function of the example and the generator's state alone, also in another process.
    copy = pickle.loads(pickle.dumps(transform))
    again = copy(pickle.loads(before), np.random.default_rng(seed))
    np.testing.assert_array_equal(again["image"], result["image"])
    np.testing.assert_array_equal(again["label"], result["label"])
    assert pickle.dumps(example) == before


@pytest.mark.parametrize("augment", [{}, transforms.OFF])
@pytest.mark.parametrize("crop_size", [None, (0, 0)])
def test_all_off_only_normalises(augment, crop_size):
    example = noise((9, 14))
    rng = np.random.default_rng(0)
    state = rng.bit_generator.state
    result = transforms.build_transforms(augment, crop_size, FILL, (50.0, 60.0, 70.0))(example, rng)
    expected = (example["image"].astype(float) - FILL) / (50.0, 60.0, 70.0)
    np.testing.assert_allclose(result["image"], expected, atol=1e-6)
    np.testing.assert_array_equal(result["label"], example["label"])
    assert rng.bit_generator.state == state


@pytest.mark.parametrize("key", EVERYTHING)
def test_each_key_does_something(key):
    example = noise((20, 24))
    transform = transforms.build_transforms({key: EVERYTHING[key]}, None, FILL, (1.0, 1.0, 1.0))
    plain = example["image"] - np.float32(FILL)
    results = [transform(example, np.random.default_rng(seed))["image"] for seed in range(8)]
    assert not all(np.array_equal(result, plain) for result in results)


def test_photometric_true_is_strength_1():
    built = [transforms.build_transforms({"photometric": v}, None, FILL, (1, 1, 1)) for v in (True, 1.0)]
    results = [t(noise((5, 6)), np.random.default_rng(3))["image"] for t in built]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"augment": {"flip_horizontl": 0.5}}, "flip_horizontl is unknown.*'flip_horizontal'.*rotation"),
        ({"augment": {"scale": (2.0, 0.5)}}, "augment.scale must be"),
        ({"augment": {"scale": (0.0, 1.0)}}, "augment.scale must be"),
        ({"augment": {"scale": 2.0}}, "augment.scale must be a pair; received 2.0"),
        ({"augment": {"flip_vertical": 1.5}}, "flip_vertical must be a probability; received 1.5"),
        ({"augment": {"photometric": -1.0}}, "photometric must be in \\[0, 2.0\\]"),
        ({"augment": {"rotation": -5.0}}, "rotation must be"),
        ({"augment": {"elastic": float("nan")}}, "elastic must be"),
        ({"crop_size": (0, 5)}, "crop_size must be"),
        ({"crop_size": 5}, "crop_size must be a pair"),
        ({"mean": (1.0,)}, "mean must be one value a channel"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be one positive value"),
    ],
)
def test_build_transforms_refuses(arguments, message):
    valid = {"augment": {}, "crop_size": None, "mean": FILL, "std": (1.0, 1.0, 1.0)}
    with pytest.raises(ValueError, match=message):
        transforms.build_transforms(**{**valid, **arguments})


@pytest.mark.parametrize(
    "change",
    [
        {"label": np.zeros((5, 7), np.uint8)},
        {"label": np.zeros((5, 6), np.int32)},
        {"image": np.zeros((5, 6), np.uint8)},
        {"image": np.zeros((5, 6, 3), np.float64)},
    ],
)
def test_a_wrong_example_is_refused(change):
    transform = transforms.build_transforms({}, None, FILL, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="image must be uint8 or float32.*received image"):
        transform({**noise((5, 6)), **change}, np.random.default_rng(0))

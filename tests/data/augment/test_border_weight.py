"""The border weight against a loop over all pixels, and by hand."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segjax.core.batch import IGNORE_LABEL
from segjax.data.augment.border_weight import REACH, border_weight
from segjax.data.augment.transforms import build_transforms
from tests.references import border_weight as reference

# float32, and what the reach cuts off: at most exp(-REACH^2 / 2) of w0.
TOLERANCE = 1e-6 + np.exp(-(REACH**2) / 2)


def blobs(size, seed, values=(0, 1, 2, IGNORE_LABEL)):
    """Rectangles over each other, so that objects of many shapes touch, nest and are cut by the edge."""
    rng = np.random.default_rng(seed)
    label = np.full(size, values[0], np.uint8)
    for _ in range(rng.integers(1, 12)):
        top, left = rng.integers(-3, size[0]), rng.integers(-3, size[1])
        height, width = rng.integers(1, 9, 2)
        label[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)] = rng.choice(values)
    return label


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 22), st.integers(1, 22)),
    seed=st.integers(0, 10**6),
    sigma=st.sampled_from([0.5, 1.7, 5.0]),
    classes=st.sampled_from([(), (0,), (0, 2), (1,)]),
)
def test_equals_the_loop(size, seed, sigma, classes):
    label = blobs(size, seed)
    weight = border_weight(label, 10.0, sigma, classes)
    expected = reference.border_weight(label, 10.0, sigma, classes or (1, 2))
    assert weight.dtype == np.float32
    assert weight.shape == size
    np.testing.assert_allclose(weight, expected, atol=10 * TOLERANCE)


def test_many_objects_in_noise_equal_the_loop():
    """Noise has many ties: objects at the same distance."""
    label = np.random.default_rng(0).choice(np.array([0, 1, 2, IGNORE_LABEL], np.uint8), (19, 23))
    np.testing.assert_allclose(border_weight(label), reference.border_weight(label, 10, 5, (1, 2)), atol=1e-5)


def test_a_wall_by_hand():
    """Two cells with a wall of k pixels: in the wall d1 + d2 is k + 1, in a cell the depth counts twice."""
    for wall in (1, 2, 5):
        label = np.zeros((9, 30), np.uint8)
        label[:, 10 : 10 + wall] = 1
        weight = border_weight(label, w0=10.0, sigma=5.0, object_classes=(0,))
        np.testing.assert_allclose(weight[:, 10 : 10 + wall], 10 * np.exp(-((wall + 1) ** 2) / 50), rtol=1e-5)
        for depth in range(5):
            expected = 10 * np.exp(-((wall + 1 + 2 * depth) ** 2) / 50)
            np.testing.assert_allclose(weight[:, 9 - depth], expected, rtol=1e-5)
            np.testing.assert_allclose(weight[:, 10 + wall + depth], expected, rtol=1e-5)


def test_touching_objects_of_two_classes_have_the_full_weight_at_most():
    label = np.zeros((5, 8), np.uint8)
    label[:, :4], label[:, 4:] = 1, 2
    weight = border_weight(label, w0=3.0, sigma=2.0)
    np.testing.assert_allclose(weight[0], 3 * np.exp(-(np.array([7, 5, 3, 1, 1, 3, 5, 7]) ** 2) / 8), rtol=1e-5)


def test_the_edge_and_unlabelled_pixels_are_no_border():
    """A strip of unlabelled pixels between two halves of a cell makes no wall of it."""
    label = np.zeros((6, 30), np.uint8)
    label[:, 14:16] = IGNORE_LABEL
    assert not border_weight(label, object_classes=(0,)).any()
    label[2, 3] = 1  # now the left half has a border, and the right one still has none
    assert not border_weight(label, object_classes=(0,)).any()


@pytest.mark.parametrize("value", [0, 1, IGNORE_LABEL])
def test_fewer_than_two_objects_have_no_weight(value):
    label = np.zeros((7, 9), np.uint8)
    label[2:4, 3:5] = value
    assert not border_weight(label).any()


def test_it_is_a_step_after_all_others():
    """The weight of a transformed example is that of its own label, and the rest of the example is as without."""
    rng = np.random.default_rng(0)
    example = {"image": rng.integers(0, 256, (30, 40, 3)).astype(np.uint8), "label": blobs((30, 40), 5), "id": "a"}
    augment = {"rotation": 40.0, "elastic": 3.0, "scale": (0.7, 1.4), "flip_horizontal": 0.5, "photometric": 1.0}
    arguments = (augment, (24, 33), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    border = {"w0": 7.0, "sigma": 2.0, "object_classes": (0, 1)}
    on = pickle.loads(pickle.dumps(build_transforms(*arguments, border_weight=border)))
    off = [build_transforms(*arguments), build_transforms(*arguments, border_weight={**border, "w0": 0.0})]
    for seed in range(6):
        result = on(example, np.random.default_rng(seed))
        np.testing.assert_array_equal(result["weight"], border_weight(result["label"], 7.0, 2.0, (0, 1)))
        assert result["weight"].dtype == np.float32
        for transform in off:
            plain = transform(example, np.random.default_rng(seed))
            assert plain.keys() == {"image", "label", "id"}
            np.testing.assert_array_equal(result["image"], plain["image"])
            np.testing.assert_array_equal(result["label"], plain["label"])


def test_frames_of_a_clip_are_weighted_one_by_one():
    label = np.stack([blobs((12, 15), seed) for seed in range(3)])
    clip = {"image": np.zeros((*label.shape, 3), np.uint8), "label": label}
    border = {"w0": 10.0, "sigma": 5.0, "object_classes": ()}
    transform = build_transforms({}, None, (0, 0, 0), (1, 1, 1), border_weight=border)
    weight = transform(clip, np.random.default_rng(0))["weight"]
    assert weight.any()
    np.testing.assert_array_equal(weight, [border_weight(frame) for frame in label])


@pytest.mark.parametrize(
    ("change", "message"), [({"w0": -1.0}, "w0 must be 0 or more"), ({"sigma": 0.0}, "sigma must be above 0")]
)
def test_errors(change, message):
    border = {"w0": 10.0, "sigma": 5.0, "object_classes": (), **change}
    with pytest.raises(ValueError, match=message):
        build_transforms({}, None, (0, 0, 0), (1, 1, 1), border_weight=border)

"""Windows, scales and flips against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segjax.evaluation.inference import build_predict, resize, window_starts

CLASSES = 4


def local_apply(variables, image):
    """A "network" that looks at its 3x3 neighbourhood, so that borders matter."""
    return jax.lax.conv_general_dilated(image, variables, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.fixture(scope="module")
def kernel():
    return jax.random.normal(jax.random.key(0), (3, 3, 3, CLASSES))


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(1), (2, 13, 17, 3))


@given(length=st.integers(1, 60), window=st.integers(1, 20), stride=st.integers(1, 20))
def test_windows_cover_everything_and_stay_inside(length, window, stride):
    stride = min(stride, window)
    starts = window_starts(length, window, stride)
    covered = set()
    for start in starts:
        assert start == 0 or start + window <= length
        covered |= set(range(start, start + window))
    assert covered >= set(range(length))
    assert starts == sorted(set(starts))


def test_whole_image_is_the_softmax(kernel, image):
    got = jax.jit(build_predict(local_apply))(kernel, image)
    np.testing.assert_allclose(got, jax.nn.softmax(local_apply(kernel, image)), rtol=1e-6)


@pytest.mark.parametrize(
    ("window", "stride"), [((6, 5), (4, 3)), ((8, 8), (8, 8)), ((13, 17), (5, 5)), ((20, 9), (3, 9))]
)
def test_sliding_window_is_the_mean_of_crops(kernel, image, window, stride):
    got = jax.jit(build_predict(local_apply, window=window, stride=stride))(kernel, image)
    count, height, width, _ = image.shape
    padded = np.zeros((count, max(height, window[0]), max(width, window[1]), 3), np.float32)
    padded[:, :height, :width] = image
    total = np.zeros((*padded.shape[:3], CLASSES))
    times = np.zeros(padded.shape[1:3])
    for top in window_starts(padded.shape[1], window[0], stride[0]):
        for left in window_starts(padded.shape[2], window[1], stride[1]):
            crop = padded[:, top : top + window[0], left : left + window[1]]
            total[:, top : top + window[0], left : left + window[1]] += jax.nn.softmax(local_apply(kernel, crop))
            times[top : top + window[0], left : left + window[1]] += 1
    expected = (total / times[None, :, :, None])[:, :height, :width]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_default_stride_is_two_thirds(kernel, image):
    a = build_predict(local_apply, window=(6, 9))(kernel, image)
    b = build_predict(local_apply, window=(6, 9), stride=(4, 6))(kernel, image)
    np.testing.assert_array_equal(a, b)


def test_flip_is_the_mean_of_both(kernel, image):
    got = build_predict(local_apply, flip=True)(kernel, image)
    plain = jax.nn.softmax(local_apply(kernel, image))
    mirrored = jax.nn.softmax(local_apply(kernel, image[:, :, ::-1]))[:, :, ::-1]
    np.testing.assert_allclose(got, (plain + mirrored) / 2, rtol=1e-5)
    twice = build_predict(local_apply, flip=True)(kernel, image[:, :, ::-1])[:, :, ::-1]
    np.testing.assert_allclose(twice, got, rtol=1e-5)


def test_scales_are_averaged_at_the_image_size(kernel, image):
    got = build_predict(local_apply, scales=(0.5, 1.0))(kernel, image)
    small = resize(image, (6, 8))  # round half to even: 6.5 -> 6, 8.5 -> 8
    expected = (
        resize(jax.nn.softmax(local_apply(kernel, small)), (13, 17)) + jax.nn.softmax(local_apply(kernel, image))
    ) / 2
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), flip=st.booleans(), windowed=st.booleans())
def test_probabilities_sum_to_one_at_any_size(height, width, flip, windowed):
    kernel = jnp.ones((3, 3, 3, CLASSES))
    predict = build_predict(local_apply, window=(4, 4) if windowed else None, scales=(0.75, 1.0), flip=flip)
    got = predict(kernel, jnp.ones((1, height, width, 3)))
    assert got.shape == (1, height, width, CLASSES)
    np.testing.assert_allclose(got.sum(-1), 1.0, rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="no pixel is left out"):
        build_predict(local_apply, window=(4, 4), stride=(5, 4))
    with pytest.raises(ValueError, match="scales"):
        build_predict(local_apply, scales=())

"""The exact and the windowed filter against all pairs in NumPy, and their choice by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.crf import choose_filter, filters
from tests.crf.pictures import photo
from tests.models.variables import fast_jit
from tests.references.crf import kernel_matrix, pixel_features


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 19)])  # one tile in part, and one and a part
def test_exact_is_all_pairs(size):
    image = photo("chelsea", *size)
    values = np.random.default_rng(0).normal(size=(size[0] * size[1], 3)).astype(np.float32)
    theirs = kernel_matrix(pixel_features(image, 5.0, 20.0)) @ values
    run = fast_jit(
        lambda v: filters.build_filter("exact", filters.bilateral_features(jnp.asarray(image), 5.0, 20.0))(v)
    )
    assert relative(run(values), theirs) < 1e-5  # float32 sums of 323 terms


def test_exact_does_not_lose_digits_far_from_the_origin():
    near = np.random.default_rng(1).normal(size=(50, 5)).astype(np.float32)
    values = np.ones((50, 1), np.float32)
    far = (near + 4096).astype(np.float32)  # exactly representable after the subtraction below
    ours = fast_jit(filters.exact_filter)(values, far)
    assert relative(ours, kernel_matrix(far) @ values) < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (33, 50), (37, 90)])
@pytest.mark.parametrize("sigma", [0.8, 2.9, 7.0, 40.0])
def test_window_is_all_pairs_to_its_truncation(size, sigma):
    height, width = size
    values = np.random.default_rng(0).random((height * width, 2)).astype(np.float32)
    # separable, so all pairs of rows and of columns, untruncated
    rows, columns = (kernel_matrix(np.arange(n)[:, None] / sigma) for n in size)
    theirs = np.einsum("ab,xy,byc->axc", rows, columns, values.reshape(height, width, 2)).reshape(-1, 2)
    ours = jax.jit(lambda v, s: filters.window_filter(v, s, size))(values, jnp.float32(sigma))
    # 6e-7 of the mass is cut off along each axis, beside the rounding of float32
    assert relative(ours, theirs) < 4e-6


def test_window_gradients_are_those_of_the_exact_filter():
    size = (12, 31)
    values, cotangent = np.random.default_rng(0).normal(size=(2, 12 * 31, 2)).astype(np.float32)

    def of(run):
        return fast_jit(jax.grad(lambda v, s: (run(v, s) * cotangent).sum(), argnums=(0, 1)))(values, jnp.float32(2.5))

    ours = of(lambda v, s: filters.window_filter(v, s, size))
    exact = of(lambda v, s: filters.exact_filter(v, filters.spatial_features(*size, s)))
    for a, b in zip(ours, exact, strict=True):
        # the derivative grows with the squared distance: what is cut off weighs 25 times more
        assert relative(a, b) < 1e-4


def test_the_choice_can_be_told_before_a_run():
    assert choose_filter(32, 32) == {"bilateral_filter": "exact", "spatial_filter": "exact"}
    assert choose_filter(32, 33) == {"bilateral_filter": "permutohedral", "spatial_filter": "window"}
    kept = choose_filter(8, 8, bilateral_filter="permutohedral", spatial_filter="window")
    assert kept == {"bilateral_filter": "permutohedral", "spatial_filter": "window"}


def test_an_unknown_filter_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"spatial_filter must be one of .*'window'.*'windw'; did you mean 'window'"):
        choose_filter(8, 8, spatial_filter="windw")
    with pytest.raises(ValueError, match="bilateral_filter must be one of"):
        choose_filter(8, 8, bilateral_filter="window")
    with pytest.raises(ValueError, match="received 'window'"):
        filters.build_filter("window", jnp.zeros((4, 2)))

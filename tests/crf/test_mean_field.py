"""Mean field against NumPy with all pairs, its gradients against finite differences, special cases, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.crf import CRFParams, check_inputs, mean_field
from segjax.crf.mean_field import NORMALIZATIONS
from tests.crf.pictures import energies, photo
from tests.models.variables import fast_jit
from tests.references import crf as reference

PARAMS = CRFParams(4.0, 12.0, 15.0, 3.0, 2.0)
OPTIONS = ("iterations", "bilateral_filter", "spatial_filter", "normalization")
run = fast_jit(mean_field, static_argnames=OPTIONS)
FILTERS = [("exact", "exact"), ("permutohedral", "permutohedral"), ("permutohedral", "window")]


def example(height=9, width=11, classes=4, name="astronaut", seed=0):
    image = photo(name, height, width)
    return energies(image, classes, seed)[None], image[None]


def ours(unary, image, params=PARAMS, **options):
    return np.asarray(run(unary, image, params, **options))


def theirs(unary, image, params=PARAMS, **options):
    mu = None if params.compatibility is None else np.asarray(params.compatibility, np.float64)
    return reference.mean_field(
        unary[0],
        image[0],
        w1=params.bilateral_weight,
        sigma_alpha=params.bilateral_sigma_xy,
        sigma_beta=params.bilateral_sigma_rgb,
        w2=params.spatial_weight,
        sigma_gamma=params.spatial_sigma_xy,
        mu=np.diag(mu) if mu is not None and mu.ndim == 1 else mu,
        **options,
    )[None]


def compatibilities():
    rng = np.random.default_rng(5)
    return {
        "potts": None,
        "diagonal": -rng.uniform(0.5, 1.5, 4).astype(np.float32),
        "full": rng.normal(size=(4, 4)).astype(np.float32),
    }


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_equals_numpy_with_each_normalization(normalization):
    options = dict(iterations=3, normalization=normalization)
    unary, image = example()
    expected = theirs(unary, image, **options)
    np.testing.assert_allclose(ours(unary, image, **options), expected, atol=2e-5)


@pytest.mark.parametrize("kind", compatibilities())
def test_equals_numpy_with_each_compatibility_and_weights_of_classes(kind):
    weights = np.array([1.0, 2.0, 0.5, 3.0], np.float32)
    params = PARAMS.replace(compatibility=compatibilities()[kind], bilateral_weight=weights, spatial_weight=2 * weights)
    unary, image = example()
    np.testing.assert_allclose(ours(unary, image, params), theirs(unary, image, params), atol=2e-5)


def test_diagonal_of_minus_one_and_ones_off_the_diagonal_are_potts():
    unary, image = example()
    for compatibility in (-np.ones(4, np.float32), reference.potts(4).astype(np.float32)):
        same = ours(unary, image, PARAMS.replace(compatibility=compatibility))
        np.testing.assert_allclose(same, ours(unary, image), atol=1e-5)


def test_no_iteration_is_the_softmax():
    unary, image = example()
    np.testing.assert_allclose(ours(unary, image, iterations=0), jax.nn.softmax(-unary, -1), atol=1e-6)


@pytest.mark.parametrize("kind", compatibilities())
def test_gradients_are_finite_differences(kind):
    """Of the NumPy version in float64, along a random direction of each argument."""
    rng = np.random.default_rng(3)
    unary, image = example(5, 6)
    params = PARAMS.replace(
        bilateral_weight=rng.uniform(1, 3, 4).astype(np.float32),
        bilateral_sigma_xy=3.0,
        bilateral_sigma_rgb=40.0,
        spatial_sigma_xy=1.3,
        compatibility=compatibilities()[kind],
    )
    weight = rng.normal(size=unary.shape).astype(np.float32)

    def loss(unary, params):
        return (mean_field(unary, image, params, iterations=3) * weight).sum()

    to_unary, to_params = fast_jit(jax.grad(loss, argnums=(0, 1)))(unary, params)

    def numeric(make, direction):
        step = 1e-5
        up, down = (
            (theirs(*make(sign * step * direction), iterations=3) * weight.astype(np.float64)).sum() for sign in (1, -1)
        )
        return (up - down) / (2 * step)

    direction = rng.normal(size=unary.shape)
    expected = numeric(lambda move: (unary.astype(np.float64) + move, image, params), direction)
    assert abs((to_unary * direction).sum() - expected) < 2e-4 * abs(expected)
    for field in dataclasses.fields(CRFParams):
        value = getattr(params, field.name)
        if value is None:
            continue
        value = np.asarray(value, np.float64)
        direction = rng.normal(size=value.shape)
        expected = numeric(
            lambda move, name=field.name, value=value: (unary, image, params.replace(**{name: value + move})), direction
        )
        found = (np.asarray(getattr(to_params, field.name)) * direction).sum()
        assert abs(found - expected) < 5e-4 * abs(expected) + 1e-5, (field.name, found, expected)


@pytest.mark.parametrize(("bilateral_filter", "spatial_filter"), FILTERS)
def test_a_batch_is_its_images_one_by_one_and_mapped(bilateral_filter, spatial_filter):
    options = dict(bilateral_filter=bilateral_filter, spatial_filter=spatial_filter, iterations=2)
    pairs = [example(13, 10, name=name, seed=seed) for seed, name in enumerate(("astronaut", "coffee"))]
    unary, image = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    batch = ours(unary, image, **options)
    for i, pair in enumerate(pairs):
        np.testing.assert_allclose(batch[i : i + 1], ours(*pair, **options), atol=1e-6)
    mapped = fast_jit(jax.vmap(lambda u, x: mean_field(u[None], x[None], PARAMS, **options)[0]))(unary, image)
    np.testing.assert_allclose(mapped, batch, atol=1e-5)


@pytest.mark.parametrize(("bilateral_filter", "spatial_filter"), FILTERS)
def test_padding_that_is_not_inside_changes_nothing(bilateral_filter, spatial_filter):
    options = dict(bilateral_filter=bilateral_filter, spatial_filter=spatial_filter, iterations=3)
    unary, image = example(13, 10)
    pads = ((0, 0), (0, 4), (0, 7), (0, 0))
    rng = np.random.default_rng(0)
    wide_image = np.pad(image, pads)
    wide_image[:, 13:], wide_image[:, :, 10:] = rng.integers(0, 256, (1, 4, 17, 3)), rng.integers(0, 256, (1, 17, 7, 3))
    inside = np.pad(np.ones((1, 13, 10), bool), pads[:3])
    wide_unary = np.pad(unary, pads, constant_values=3.0)
    for normalization in NORMALIZATIONS if bilateral_filter == "exact" else ("symmetric",):
        wide = ours(wide_unary, wide_image, inside=inside, normalization=normalization, **options)
        expected = ours(unary, image, normalization=normalization, **options)
        np.testing.assert_allclose(wide[:, :13, :10], expected, atol=2e-5)
        np.testing.assert_allclose(wide[:, 13:], 0.25, atol=1e-6)  # the softmax of equal energies


@pytest.mark.parametrize(("bilateral_filter", "spatial_filter"), FILTERS)
def test_classes_have_no_order(bilateral_filter, spatial_filter):
    options = dict(bilateral_filter=bilateral_filter, spatial_filter=spatial_filter, iterations=2)
    unary, image = example(12, 13)
    order = np.array([2, 0, 3, 1])
    full = compatibilities()["full"]
    straight = ours(unary, image, PARAMS.replace(compatibility=full), **options)
    moved = ours(unary[..., order], image, PARAMS.replace(compatibility=full[order][:, order]), **options)
    np.testing.assert_allclose(moved, straight[..., order], atol=1e-5)


@pytest.mark.parametrize(("bilateral_filter", "spatial_filter"), FILTERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 23), (23, 1)])
def test_thin_images(size, bilateral_filter, spatial_filter):
    unary, image = example(*size)
    found = ours(unary, image, bilateral_filter=bilateral_filter, spatial_filter=spatial_filter)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    # The lattice is an approximation: a pixel between two labels may differ, the line as a whole does not.
    tolerance = 2e-5 if bilateral_filter == "exact" else 0.05
    assert np.abs(found - theirs(unary, image)).mean() < tolerance


@pytest.mark.parametrize(("bilateral_filter", "spatial_filter"), FILTERS)
def test_a_constant_image_with_equal_energies_stays_as_it_is(bilateral_filter, spatial_filter):
    unary = np.broadcast_to(np.float32([0.1, 0.7, 0.4]), (1, 9, 14, 3)).copy()
    image = np.full((1, 9, 14, 3), 77, np.uint8)
    options = dict(bilateral_filter=bilateral_filter, spatial_filter=spatial_filter, normalization="after")
    found = ours(unary, image, iterations=4, **options)
    # rows of the normalised kernels sum to 1, so that one pixel's recursion is everybody's
    marginals = np.exp(-np.float64([0.1, 0.7, 0.4]))
    marginals /= marginals.sum()
    for _ in range(4):
        marginals = np.exp(-np.float64([0.1, 0.7, 0.4]) + 7 * marginals)
        marginals /= marginals.sum()
    np.testing.assert_allclose(found, np.broadcast_to(marginals, found.shape), atol=2e-5)


def test_one_class_is_certain():
    unary, image = example(6, 7, classes=1)
    np.testing.assert_array_equal(ours(unary, image), 1)


def test_lattice_gradients_are_those_of_the_exact_filter():
    """Within the lattice's error: the gradients point the same way."""
    unary, image = example(24, 28)
    weight = np.random.default_rng(0).normal(size=unary.shape).astype(np.float32)
    params = jax.tree.map(jnp.float32, PARAMS.replace(bilateral_sigma_xy=8.0, bilateral_sigma_rgb=30.0))

    def gradients(bilateral_filter, spatial_filter):
        def loss(unary, params):
            options = dict(bilateral_filter=bilateral_filter, spatial_filter=spatial_filter, iterations=3)
            return (mean_field(unary, image, params, **options) * weight).sum()

        return fast_jit(jax.grad(loss, argnums=(0, 1)))(unary, params)

    exact, lattice = gradients("exact", "exact"), gradients("permutohedral", "permutohedral")
    cosine = (exact[0] * lattice[0]).sum() / np.linalg.norm(exact[0]) / np.linalg.norm(lattice[0])
    assert cosine > 0.99


def bad(**changes):
    unary, image = example(4, 5)
    arguments = dict(unary=unary, image=image, params=PARAMS)
    for name, value in changes.items():
        arguments[name] = value(arguments[name]) if callable(value) else value
    return arguments


ERRORS = {
    "three axes": (dict(unary=lambda u: u[0]), "leading axis of 1"),
    "other size": (dict(image=lambda x: x[:, 1:]), r"received \[1, 4, 5, 4\] and\s+\[1, 3, 5, 3\]"),
    "grey image": (dict(image=lambda x: x[..., :1]), r"image \[N, H, W, 3\]"),
    "no pixel": (dict(unary=lambda u: u[:, :0], image=lambda x: x[:, :0]), "none of them 0"),
    "float16 energies": (dict(unary=lambda u: u.astype(np.float16)), "unary must be float32"),
    "int image": (dict(image=lambda x: x.astype(np.int32)), "image must be uint8 or float32"),
    "weights of other classes": (
        dict(params=PARAMS.replace(spatial_weight=np.ones(3, np.float32))),
        r"spatial_weight must be a scalar or \[4\] for 4 classes; received shape \[3\]",
    ),
    "no weight": (dict(params=PARAMS.replace(bilateral_weight=None)), "bilateral_weight must be a scalar"),
    "compatibility": (
        dict(params=PARAMS.replace(compatibility=np.ones((4, 3), np.float32))),
        r"compatibility must be \[4\] or \[4, 4\]",
    ),
}
VALUE_ERRORS = {
    "nan": (dict(unary=lambda u: np.where(u == u.max(), np.nan, u)), "without NaN; received 1 NaN of 80"),
    "impossible": (dict(unary=lambda u: np.full_like(u, np.inf)), "a class of finite energy"),
    "certain": (dict(unary=lambda u: np.where(u == u.max(), -np.inf, u)), "none of -inf"),
    "0-1 floats": (dict(image=lambda x: (x / 255).astype(np.float32)), "multiply the image by 255"),
    "standardised": (dict(image=lambda x: (x / 64 - 2).astype(np.float32)), "undo the normalisation"),
    "nan image": (dict(image=lambda x: np.where(x > x.mean(), x, np.nan).astype(np.float32)), "without NaN"),
    "zero": (dict(params=PARAMS.replace(spatial_sigma_xy=0.0)), "spatial_sigma_xy .* received 0.0"),
    "negative": (dict(params=PARAMS.replace(bilateral_sigma_rgb=-3.0)), "bilateral_sigma_rgb .* positive"),
    "infinite": (dict(params=PARAMS.replace(bilateral_sigma_xy=np.inf)), "bilateral_sigma_xy .* finite"),
    "nan weight": (dict(params=PARAMS.replace(bilateral_weight=np.nan)), "bilateral_weight must be finite"),
    "tiny": (dict(params=PARAMS.replace(bilateral_sigma_rgb=1e-3)), "take larger standard deviations"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_static_facts_are_checked_under_jit_and_on_the_host(name):
    changes, message = ERRORS[name]
    for call in (check_inputs, jax.jit(mean_field)):
        with pytest.raises((ValueError, TypeError), match=message):
            call(**bad(**changes))


@pytest.mark.parametrize("name", VALUE_ERRORS)
def test_values_are_checked_on_the_host(name):
    changes, message = VALUE_ERRORS[name]
    with pytest.raises(ValueError, match=message):
        check_inputs(**bad(**changes))


def test_good_input_passes():
    check_inputs(**bad())
    check_inputs(**bad(image=lambda x: x.astype(np.float32)))
    check_inputs(**bad(image=lambda x: np.zeros_like(x)))
    check_inputs(**bad(image=lambda x: (x / 255).astype(np.float32), params=PARAMS.replace(bilateral_sigma_rgb=0.05)))


def test_options_are_checked():
    unary, image = example(4, 5)
    with pytest.raises(ValueError, match=r"normalization must be one of .*; received 'both'"):
        mean_field(unary, image, PARAMS, normalization="both")
    with pytest.raises(ValueError, match="iterations must be an int of 0 or more; received -1"):
        mean_field(unary, image, PARAMS, iterations=-1)
    with pytest.raises(ValueError, match=r"inside must be bool \[1, 4, 5\]"):
        mean_field(unary, image, PARAMS, inside=np.ones((4, 5), bool))
    with pytest.raises(ValueError, match="bilateral_filter must be one of"):
        mean_field(unary, image, PARAMS, bilateral_filter="fast")

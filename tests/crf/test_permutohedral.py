"""The lattice: its geometry by the paper's definitions, its filter against all pairs, its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.crf import filters, permutohedral
from tests.crf.pictures import photo
from tests.models.variables import fast_jit
from tests.references.crf import kernel_matrix

build = fast_jit(permutohedral.build_lattice)


def points(count, dims, spread, seed=0):
    return np.random.default_rng(seed).uniform(-spread, spread, (count, dims)).astype(np.float32)


def corner_coordinates(features):
    """int64 [d + 1 corners, N, d + 1] coordinates of the corners, and float32 [d + 1, N] weights."""
    count, dims = features.shape
    cells, colour, weight = (np.asarray(part) for part in fast_jit(permutohedral._corners)(features))
    cells = np.stack(cells, 1).reshape(dims + 1, count, dims).astype(np.int64)
    first = cells * (dims + 1) + colour.reshape(dims + 1, count, 1)
    return np.concatenate([first, -first.sum(-1, keepdims=True)], -1), weight


def embedded(features):
    """E f of Adams et al., sec. 3.1, with the scale of sec. 3.2: the columns of E are orthogonal, of one length."""
    dims = features.shape[1]
    basis = np.zeros((dims + 1, dims))
    for i in range(dims):
        basis[: i + 1, i], basis[i + 1, i] = 1, -(i + 1)
    basis /= np.linalg.norm(basis, axis=0)
    return np.sqrt(2 / 3) * (dims + 1) * features.astype(np.float64) @ basis.T


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
def test_points_lie_in_their_simplex(dims):
    features = points(500, dims, 6.0)
    corners, weight = corner_coordinates(features)
    assert weight.min() > -1e-5  # rounding of coordinates of some tens
    np.testing.assert_allclose(weight.sum(0), 1, atol=1e-5)
    # barycentric interpolation of the corners gives the point back
    np.testing.assert_allclose(np.einsum("kn,kni->ni", weight, corners), embedded(features), atol=1e-4)
    # a vertex of the lattice: all coordinates leave the same remainder, and corner k has remainder k
    remainder = np.arange(dims + 1)[:, None, None]
    assert (corners % (dims + 1) == remainder).all()
    # the corners of a simplex are within one cell of each other
    assert np.ptp(corners, axis=0).max() <= dims + 1


@pytest.mark.parametrize("spread", [0.3, 5.0, 300.0, 12000.0])
def test_vertices_are_the_distinct_corners(spread):
    """Up to the largest coordinates that 16 bits take: no two vertices become one, and none is split."""
    features = points(700, 5, spread)
    corners, _ = corner_coordinates(features)
    assert np.abs(corners // 6).max() <= permutohedral.LARGEST_CELL
    keys, group = np.unique(corners.reshape(-1, 6), axis=0, return_inverse=True)
    lattice = build(features)
    vertex = np.asarray(lattice.vertex).ravel()
    assert lattice.count == len(keys) and set(vertex) == set(range(1, len(keys) + 1))
    assert len(set(zip(vertex, group.ravel(), strict=True))) == len(keys)

    # neighbours: + d on one coordinate and - 1 on the others
    index = {tuple(key): number for key, number in zip(corners.reshape(-1, 6).tolist(), vertex.tolist(), strict=True)}
    for axis in range(6):
        step = np.full(6, -1)
        step[axis] += 6
        for neighbours, sign in ((lattice.forward, 1), (lattice.backward, -1)):
            expected = np.zeros(neighbours.shape[1], int)
            for key, number in index.items():
                expected[number] = index.get(tuple((np.array(key) + sign * step).tolist()), 0)
            np.testing.assert_array_equal(neighbours[axis], expected)


def bilateral(name, size, sigma_xy, sigma_rgb):
    image = photo(name, *size)
    return np.asarray(filters.bilateral_features(jnp.asarray(image), sigma_xy, sigma_rgb)), image


@pytest.fixture(scope="module")
def cat():
    """Features of a picture of 36x48 pixels, and its lattice."""
    features, _ = bilateral("chelsea", (36, 48), 20.0, 20.0)
    return features, build(features)


@pytest.mark.parametrize(
    "name, sigma_xy, sigma_rgb, smallest, largest",
    [
        # Measured: sums 0.57, 0.49 and 0.46 of the exact ones; averages with an error of 0.002, 0.007 and 0.015.
        ("chelsea", 20.0, 20.0, 0.5, 0.004),
        ("coffee", 10.0, 10.0, 0.42, 0.012),
        ("astronaut", 30.0, 5.0, 0.4, 0.025),
    ],
)
def test_the_known_error_of_the_lattice(name, sigma_xy, sigma_rgb, smallest, largest):
    """The blur loses what would pass through vertices that no pixel touches; averages, normalised, lose little."""
    features, _ = bilateral(name, (36, 48), sigma_xy, sigma_rgb)
    values = np.random.default_rng(0).random((len(features), 3)).astype(np.float32)
    exact = kernel_matrix(features) @ np.concatenate([values, np.ones((len(features), 1))], 1)
    columns = np.concatenate([values, np.ones((len(features), 1), np.float32)], 1)
    found = np.asarray(fast_jit(permutohedral.lattice_filter)(columns, features, build(features)))
    assert smallest < (found[:, 3] / exact[:, 3]).mean() < 0.7
    assert np.abs(found[:, :3] / found[:, 3:] - exact[:, :3] / exact[:, 3:]).mean() < largest


def test_the_transposed_filter_is_the_transposed_matrix(cat):
    features, lattice = cat
    matrix = np.asarray(
        jax.jit(permutohedral.lattice_filter)(np.eye(len(features), dtype=np.float32), features, lattice)
    )
    v, g = np.random.default_rng(0).normal(size=(2, len(features), 3)).astype(np.float32)
    _, pull = jax.vjp(lambda v: permutohedral.lattice_filter(v, features, lattice), v)
    np.testing.assert_allclose(jax.jit(pull)(g)[0], matrix.T @ g, atol=1e-4)
    assert np.abs(matrix - matrix.T).max() > 1e-3  # so the order of the axes does matter


def test_all_vertices_at_once_as_on_accelerators(cat, monkeypatch):
    features, lattice = cat
    values = np.random.default_rng(0).random((len(features), 3)).astype(np.float32)
    expected = jax.jit(permutohedral.lattice_filter)(values, features, lattice)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))

    def afresh(values, features):
        return permutohedral.lattice_filter(values, features, permutohedral.build_lattice(features))

    np.testing.assert_allclose(jax.jit(afresh)(values, features), expected, rtol=1e-5)

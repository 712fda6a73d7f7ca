"""Schedules against their formulas, optimizers against hand-written NumPy, decay masks and rate factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.core.config import default_config
from segjax.models.backbones.swin import Swin
from segjax.models.mask2former import Mask2Former
from segjax.models.segmenter import Segmenter
from segjax.training import optim


def test_poly_is_that_of_deeplab():
    rate = optim.build_schedule("poly", 0.1, 20, poly_power=0.9)
    for step in (0, 7, 19):
        np.testing.assert_allclose(rate(step), 0.1 * (1 - step / 20) ** 0.9, rtol=1e-6)


def test_cosine_with_warmup():
    rate = optim.build_schedule("cosine", 2.0, 110, warmup_steps=10)
    np.testing.assert_allclose([rate(0), rate(4), rate(9)], [0.2, 1.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(rate(60), 1.0, rtol=1e-5)
    np.testing.assert_allclose(rate(110), 0.0, atol=1e-6)


def test_constant_stays():
    rate = optim.build_schedule("constant", 0.3, 10)
    np.testing.assert_allclose([rate(0), rate(100)], 0.3, rtol=1e-6)


def run_ours(changes, params, grads_of_steps, rate=0.1):
    config = default_config().optimizer
    config.update(changes)
    direction = optim.build_direction(config)
    state = direction.init(params)
    for grads in grads_of_steps:
        updates, state = direction.update(grads, state, params)
        params = {name: params[name] - rate * updates[name] for name in params}
    return params


PARAMS = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5, 0.5])}
GRADS = [
    {"kernel": jnp.array([[0.3, 0.1]]), "bias": jnp.array([1.0, -1.0])},
    {"kernel": jnp.array([[-0.2, 0.4]]), "bias": jnp.array([0.5, 0.0])},
    {"kernel": jnp.array([[0.1, 0.1]]), "bias": jnp.array([0.2, 0.3])},
]


def test_sgd_with_momentum_and_l2():
    got = run_ours(dict(name="sgd", momentum=0.9, weight_decay=0.01), PARAMS, GRADS)
    for name, decay in (("kernel", 0.01), ("bias", 0.0)):
        p, v = np.asarray(PARAMS[name], np.float64), 0.0
        for grads in GRADS:
            v = 0.9 * v + np.asarray(grads[name]) + decay * p
            p = p - 0.1 * v
        np.testing.assert_allclose(got[name], p, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw(name):
    got = run_ours(dict(name=name, momentum=0.9, b2=0.99, weight_decay=0.1), PARAMS, GRADS)
    for part, decay in (("kernel", 0.1), ("bias", 0.0)):
        p, m, v = np.asarray(PARAMS[part], np.float64), 0.0, 0.0
        for t, grads in enumerate(GRADS, 1):
            g = np.asarray(grads[part], np.float64) + (decay * p if name == "adam" else 0)
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
            p = p - 0.1 * (step + (decay * p if name == "adamw" else 0))
        np.testing.assert_allclose(got[part], p, rtol=1e-5)


def test_clipping_is_by_the_norm_of_the_whole_gradient():
    grads = {"kernel": jnp.array([[3.0, 0.0]]), "bias": jnp.array([0.0, 4.0])}
    got = run_ours(dict(name="sgd", momentum=0.0, clip_norm=1.0), PARAMS, [grads], rate=1.0)
    np.testing.assert_allclose(got["kernel"], [[1.0 - 0.6, -2.0]], rtol=1e-6)
    np.testing.assert_allclose(got["bias"], [0.5, 0.5 - 0.8], rtol=1e-6)


def test_rate_factors_by_path():
    params = {"head": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}, "stem": {"kernel": jnp.ones(2)}}
    factors = optim.rate_factors(params, (("head", 10.0),))
    assert factors == {"head": {"kernel": 10.0, "bias": 10.0}, "stem": {"kernel": 1.0}}
    factors = optim.rate_factors(params, (("head/b.*", 20.0), ("head", 10.0)))
    assert factors["head"] == {"kernel": 10.0, "bias": 20.0}
    with pytest.raises(ValueError, match="Top-level parts: head, stem"):
        optim.rate_factors(params, (("haed", 10.0),))


def newton_schulz(matrix):
    """Five steps towards the nearest orthogonal matrix, with the coefficients of Jordan et al. 2024."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def test_muon_orthogonalises_kernels_and_leaves_the_rest_to_adam():
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 4))), "bias": jnp.array([0.5, 0.5])}
    grads = [
        {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 4))), "bias": jnp.asarray(rng.normal(size=2))}
        for _ in range(3)
    ]
    got = run_ours(dict(name="muon", momentum=0.9, b2=0.99, weight_decay=0.1), params, grads)
    adam = run_ours(dict(name="adamw", momentum=0.9, b2=0.99, weight_decay=0.1), params, grads)
    np.testing.assert_allclose(got["bias"], adam["bias"], rtol=1e-6)

    p, m = np.asarray(params["kernel"], np.float64).reshape(18, 4), 0.0
    for step, each in enumerate(grads, start=1):
        g = np.asarray(each["kernel"], np.float64).reshape(18, 4)
        m = 0.9 * m + 0.1 * g
        # Nesterov with Adam's correction of the bias (Dozat 2016); the norm is taken away again below.
        nesterov = 0.9 * m / (1 - 0.9 ** (step + 1)) + 0.1 * g / (1 - 0.9**step)
        p = p - 0.1 * (0.2 * np.sqrt(18) * newton_schulz(nesterov.T).T + 0.1 * p)
    np.testing.assert_allclose(np.asarray(got["kernel"]).reshape(18, 4), p, rtol=1e-4)


def test_muons_update_has_about_adams_size():
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.zeros((3, 3, 16, 64))}
    grads = [{"kernel": jnp.asarray(rng.normal(size=(3, 3, 16, 64)) * 1e-3)}]
    moved = run_ours(dict(name="muon", weight_decay=0.0), params, grads)["kernel"]
    assert 0.1 * 0.1 < np.sqrt(np.mean(moved**2)) < 0.1 * 0.4  # rate 0.1; Adam's usual 0.2 to 0.4 (Liu et al. 2025)


@pytest.mark.parametrize("name", ["bias_table", "class_embed", "cls_token", "embedding", "pos_embed"])
def test_tables_of_vectors_are_no_kernels(name):
    """As the authors of ViT, Swin and Mask2Former have it: no decay, and Adam beside Muon's kernels."""
    rng = np.random.default_rng(5)
    table = rng.normal(size=(3, 4)).astype(np.float32)
    params, grads = {name: jnp.asarray(table)}, [{name: jnp.asarray(rng.normal(size=(3, 4)))}]
    for optimizer in ("muon", "adamw"):
        got = run_ours(dict(name=optimizer, momentum=0.9, b2=0.99, weight_decay=0.5), params, grads)
        plain = run_ours(dict(name="adamw", momentum=0.9, b2=0.99, weight_decay=0.0), params, grads)
        np.testing.assert_array_equal(got[name], plain[name])


def test_the_tables_of_our_models_are_those_that_are_named():
    """Whatever has several axes in a model with tables is a kernel by its name, or one of the tables."""
    models = [
        Swin(width=8, depths=(1, 1, 1, 1), head_dim=8, window=2),
        Mask2Former(2, backbone="resnet18", width=8, hidden=32, heads=2),
        Segmenter(2, width=8, depth=1, heads=1),
    ]
    trees = [jax.eval_shape(each.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))) for each in models]
    for tree in trees:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree["params"]):
            name = optim.path_name(path)
            assert optim.is_kernel(name, leaf) == (name.endswith("kernel") and leaf.ndim > 1), name

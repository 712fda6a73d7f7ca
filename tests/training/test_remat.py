"""Rematerialisation: the same numbers, with less kept for the gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import build
from segjax.core import program
from segjax.models.layers.conv import Conv
from segjax.models.layers.upsample import ConvTranspose, resize_bilinear
from segjax.training.step import _kept, make_forward
from tests.training.test_communication import config_of


@pytest.mark.parametrize("model", ["unet", pytest.param("segnet_basic", marks=pytest.mark.slow)])
def test_elementwise_gives_the_same_gradient_statistics_and_dropout(one_device_mesh, model):
    """What is computed again may be fused otherwise, so float32's rounding remains. SegNet has dropout."""
    config = config_of(model, **{"model.width": 4, "data.batch_size": 2})
    dataset = build.dataset_of_shapes(config)
    module = build.model(config, dataset.info)
    variables = module.init(jax.random.key(1), np.zeros((1, 32, 32, 3), np.float32))
    params, statistics = variables["params"], {"batch_stats": variables["batch_stats"]}
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.standard_normal((2, 32, 32, 3)).astype(np.float32),
        "label": rng.integers(0, 11, (2, 32, 32)).astype(np.uint8),
    }
    arguments = params, statistics, batch, jax.random.key(2)
    found, kept = {}, {}
    for remat in ("", "elementwise"):
        forward = make_forward(module, build.loss(config, dataset.info)[0], remat=remat)
        gradient = jax.jit(jax.value_and_grad(forward, has_aux=True))
        found[remat] = gradient.lower(*arguments).compile({"xla_backend_optimization_level": 0})(*arguments)
        kept[remat] = program.kept_for_gradient(forward, *arguments)
    for plain, again in zip(jax.tree.leaves(found[""]), jax.tree.leaves(found["elementwise"]), strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())
    assert kept["elementwise"] < kept[""]


def test_what_is_kept_counted_by_hand():
    """sin(x) w keeps cos(x), and sin(x) for w's own gradient; x and w are arguments."""
    x, w = (jax.ShapeDtypeStruct((5, 7), np.float32) for _ in range(2))
    function = lambda both: ((jnp.sin(both[0]) * both[1]).sum(), None)  # noqa: E731
    assert program.kept_for_gradient(function, (x, w)) == 2 * 5 * 7 * 4


class Resized(nn.Module):
    """Each kind of layer whose result is large."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(Conv(32, (3, 3))(x))
        x = jnp.sin(resize_bilinear(x, (16, 16)))
        x = nn.relu(ConvTranspose(6, 2)(nn.relu(Conv(8, (1, 1))(x))))
        return jnp.sin(nn.Dense(5)(x)).sum(), None


def test_results_of_convolutions_and_of_products_with_parameters_are_kept_and_nothing_else():
    x = np.ones((2, 8, 8, 32), np.float32)
    variables = Resized().init(jax.random.key(0), x)
    run = jax.checkpoint(lambda variables: Resized().apply(variables, x), policy=_kept)
    kept = program.kept_for_gradient(run, variables)
    results = 2 * (8 * 8 * 32 + 16 * 16 * 8 + 32 * 32 * 6 + 32 * 32 * 5) * 4
    constants = x.nbytes + 2 * 16 * 8 * 4
    assert results <= kept <= results + constants

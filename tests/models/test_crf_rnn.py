"""CRF-RNN: the network's scores refined by the mean field of `tests/references/crf.py`, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.core import sharding
from segjax.models import build_model
from segjax.models.output import Output
from tests.crf.pictures import photo
from tests.models.variables import fast_jit, random_variables
from tests.references import crf as reference

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 55.0, 50.0)
FIELDS = dict(
    network=dict(name="fcn_resnet", backbone="resnet18", width=2, auxiliary=True),
    mean=MEAN,
    std=STD,
    iterations=2,
    evaluation_iterations=3,
    bilateral_sigma_xy=6.0,
    bilateral_sigma_rgb=20.0,
    spatial_sigma_xy=1.5,
)
PIXELS = photo("coffee", 17, 23)
IMAGE = jnp.asarray((PIXELS - np.array(MEAN)) / np.array(STD), jnp.float32)[None]


@pytest.fixture(scope="module")
def model_and_variables():
    model = build_model("crf_rnn", num_classes=4, **FIELDS)
    return model, random_variables(model, (1, 32, 32, 3))


def softmax(logits):
    return jax.nn.softmax(jnp.asarray(logits), -1)


def test_it_is_the_mean_field_of_the_networks_scores(model_and_variables):
    model, variables = model_and_variables
    params = variables["params"]
    params["bilateral_weight"] = jnp.array([1.0, 2.0, 3.0, 4.0])
    params["spatial_weight"] = jnp.array([2.0, 1.0, 0.5, 1.5])
    inner = {kind: tree["network"] for kind, tree in variables.items()}
    scores = fast_jit(lambda v, x: model.network.apply(v, x, train=False))(inner, IMAGE)
    found = fast_jit(lambda v, x: model.apply(v, x, train=False))(variables, IMAGE)
    expected = reference.mean_field(
        -np.asarray(scores[0], np.float64),
        PIXELS,
        w1=np.asarray(params["bilateral_weight"]),
        sigma_alpha=6.0,
        sigma_beta=20.0,
        w2=np.asarray(params["spatial_weight"]),
        sigma_gamma=1.5,
        mu=np.asarray(params["compatibility"]),
        iterations=3,
        normalization="after",
    )
    np.testing.assert_allclose(softmax(found[0]), expected, atol=1e-4)
    assert np.abs(softmax(scores[0]) - expected).max() > 0.05


def test_training_has_fewer_iterations_the_auxiliary_head_and_a_gradient_for_all(model_and_variables):
    model, variables = model_and_variables

    def loss(params):
        output, _ = model.apply(
            {**variables, "params": params},
            IMAGE,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        assert isinstance(output, Output) and len(output.auxiliary) == 1
        log_p = jax.nn.log_softmax(output.logits)
        return -log_p[..., 1].mean() + output.logits[..., 0].std(), output.logits

    (_, logits), gradient = fast_jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert logits.shape == (1, 17, 23, 4) and np.isfinite(logits).all()
    for name in ("bilateral_weight", "spatial_weight", "compatibility"):
        assert np.isfinite(gradient[name]).all() and np.abs(gradient[name]).max() > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_potts_at_the_start():
    model = build_model("crf_rnn", num_classes=3, **FIELDS)
    params = fast_jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    np.testing.assert_array_equal(params["compatibility"], -np.eye(3))
    np.testing.assert_array_equal(params["bilateral_weight"], [5.0] * 3)
    np.testing.assert_array_equal(params["spatial_weight"], [3.0] * 3)


def test_bad_fields_are_refused():
    with pytest.raises(ValueError, match="needs a network below the CRF"):
        build_model("crf_rnn", num_classes=3)
    with pytest.raises(ValueError, match="model must be one of .* received 'fnc'; did you mean 'fcn'"):
        build_model("crf_rnn", num_classes=3, network=dict(name="fnc"))
    with pytest.raises(ValueError, match="field of 'fcn' must be one of .*'widht'; did you mean 'width'"):
        build_model("crf_rnn", num_classes=3, network=dict(name="fcn", widht=3))
    with pytest.raises(ValueError, match="at least 1 iteration"):
        build_model("crf_rnn", num_classes=3, **{**FIELDS, "iterations": 0})
    with pytest.raises(ValueError, match="sigmas above 0"):
        build_model("crf_rnn", num_classes=3, **{**FIELDS, "spatial_sigma_xy": 0.0})


def test_several_devices_each_take_their_images_and_learn_the_same(model_and_variables):
    model, variables = model_and_variables
    mesh = sharding.make_mesh(4, 2)
    image = jnp.concatenate([IMAGE + shift for shift in np.linspace(-0.5, 0.5, 8)]).astype(jnp.float32)

    def learnt(params, image):
        def loss(params):
            found = model.apply({**variables, "params": params}, image)
            return (found**2).mean()

        gradient = jax.grad(loss)(params)
        return {name: gradient[name] for name in ("bilateral_weight", "spatial_weight", "compatibility")}

    whole, lies = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    split = fast_jit(sharding.for_mesh(learnt, mesh), in_shardings=(whole, lies))(variables["params"], image)
    alone = fast_jit(learnt)(variables["params"], image)
    for name, gradient in alone.items():
        np.testing.assert_allclose(split[name], gradient, rtol=1e-4, atol=1e-5 * np.abs(gradient).max())

"""What every model promises, on shrunken ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import MODELS, build_model, count_params
from segjax.models.output import Output
from tests.models.variables import random_image, random_variables

SMALL = {
    "unet": ("unet", dict(width=2, depth=2)),
    "unet, original": ("unet", dict(width=2, depth=2, padding="valid", norm="none", dropout=0.5)),
    "espnet": ("espnet", dict(alpha2=1, alpha3=1)),
    "espnet, c": ("espnet", dict(alpha2=1, alpha3=1, decoder=False, void_output=True)),
    "deeplab_v1": ("deeplab_v1", dict(width=2, fc_channels=8, batch_norm=True)),
    "deeplab_v2": ("deeplab_v2", dict(backbone="resnet18", width=2, scales=(1.0, 0.5))),
    "deeplab_v3": ("deeplab_v3", dict(backbone="resnet18", width=2, features=8)),
    "deeplab_v3plus": ("deeplab_v3plus", dict(backbone="resnet18", width=2, features=8, skip_features=4)),
    "fcn": ("fcn", dict(width=1, fc_channels=4, stride=8, batch_norm=True)),
    "patch_cnn": ("patch_cnn", dict(window=33, kernel_sizes=(4, 4, 3), features=4, hidden=8)),
    "segnet": ("segnet", dict(width=2)),
    "segnet, basic": ("segnet", dict(form="basic", width=8, dropout=0.5)),
    "pspnet": ("pspnet", dict(backbone="resnet18", width=4, channels=8)),
    "pspnet, smp": (
        "pspnet",
        dict(backbone="resnet18", form="smp", stem="7x7", deepest=8, auxiliary=False, width=2, channels=8),
    ),
    "unet_resnet": ("unet_resnet", dict(backbone="resnet18", width=2, decoder_channels=(8, 6, 4, 3, 2))),
    "fcn_resnet": ("fcn_resnet", dict(backbone="resnet18", width=2)),
    "lraspp": ("lraspp", dict(backbone="mobilenet_v3_small", filters=8)),
}
SHAPE = (2, 97, 131, 3)


def test_every_model_is_tested_here():
    assert {name for name, _ in SMALL.values()} == set(MODELS)


@pytest.fixture(scope="module", params=SMALL.values(), ids=SMALL)
def case(request):
    name, fields = request.param
    model = build_model(name, num_classes=5, **fields)
    return name, fields, model, random_variables(model, (1, 32, 32, 3))


def test_logits_are_float32_at_the_size_of_the_input(case):
    _, _, model, variables = case
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, random_image(SHAPE))
    assert logits.shape == (*SHAPE[:3], 5) and logits.dtype == jnp.float32
    assert np.isfinite(logits).all() and np.ptp(logits) > 0


def test_initialisers_give_finite_float32_variables(case):
    _, _, model, variables = case
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    started = init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, variables)
    for leaf in jax.tree.leaves(started):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()


def test_bfloat16_computes_close_to_float32(case):
    name, fields, model, variables = case
    image = random_image((1, 33, 37, 3))
    low = build_model(name, num_classes=5, dtype="bfloat16", **fields)
    shapes = jax.eval_shape(lambda x: low.init(jax.random.key(0), x), image)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    logits = jax.jit(lambda v, x: low.apply(v, x))(variables, image)
    exact = jax.jit(lambda v, x: model.apply(v, x))(variables, image)
    assert logits.dtype == jnp.float32
    # 8 bits of mantissa, a few dozen layers.
    # SegNet unpools a value elsewhere where two of a window are equal in 8 bits: few pixels, but much there.
    share = 0.99 if name == "segnet" else 1.0
    assert np.quantile(np.abs(logits - exact), share) < 0.1 * np.abs(exact).max()
    assert not np.array_equal(logits, exact)


def test_training_moves_statistics_and_gradients_are_finite(case):
    _, _, model, variables = case
    image = random_image((2, 33, 37, 3))

    def loss(params):
        output, moved = model.apply(
            {**variables, "params": params},
            image,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        output = output if isinstance(output, Output) else Output(output, ())
        logits = output.logits + sum(output.auxiliary)
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[..., 0]), moved

    gradients, moved = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    leaves = jax.tree.leaves(gradients)
    assert all(np.isfinite(leaf).all() for leaf in leaves) and any(np.any(leaf) for leaf in leaves)
    for old, new in zip(
        jax.tree.leaves(variables.get("batch_stats", {})),
        jax.tree.leaves(moved.get("batch_stats", {})),
        strict=True,
    ):
        assert not np.array_equal(old, new)


def test_an_image_does_not_depend_on_its_batch(case):
    _, _, model, variables = case
    image = random_image((2, 33, 37, 3))
    apply = jax.jit(lambda x: model.apply(variables, x))
    np.testing.assert_allclose(apply(image)[:1], apply(image[:1]), rtol=1e-4, atol=1e-4)


def test_count_params_counts_parameters_alone():
    variables = {"params": {"a": jnp.zeros((2, 3)), "b": {"c": jnp.zeros(4)}}, "batch_stats": jnp.zeros(100)}
    assert count_params(variables) == 10


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(name="unte"), ValueError, "model must be one of .*unet.*'unte'; did you mean 'unet'"),
        (dict(name="unet", widht=8), ValueError, "one of width, .*'widht'; did you mean 'width'"),
        (
            dict(name="unet", dtype="float16"),
            ValueError,
            "dtype must be one of float32, bfloat16; received 'float16'",
        ),
        (dict(name="unet", width=3.5), ValueError, r"unet.width must be int; received 3.5 \(float\)"),
        (dict(name="unet", width=True), ValueError, "unet.width must be int"),
        (dict(name="unet", dropout="0.5"), ValueError, "unet.dropout must be float or int; received '0.5'"),
        (dict(name="fcn", learn_final=1), ValueError, "fcn.learn_final must be bool"),
        (dict(name="unet", num_classes="11"), ValueError, "unet.num_classes must be int; received '11'"),
    ],
)
def test_wrong_arguments_are_explained(arguments, error, message):
    with pytest.raises(error, match=message):
        build_model(**{"num_classes": 2, **arguments})


def test_an_integer_is_good_enough_for_a_float():
    assert build_model("unet", num_classes=2, dropout=0).dropout == 0

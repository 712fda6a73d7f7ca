"""What every model promises, on shrunken ones."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import build
from segjax.core import sharding
from segjax.core.config import default_config
from segjax.data.dataset import DatasetInfo
from segjax.models import MODELS, build_model, count_params
from segjax.training import losses, optim
from segjax.training.state import create_state
from segjax.training.step import jit_train_step, make_train_step
from tests.models.variables import FAST, fast_jit, random_image, random_variables

SMALL = {
    "crf_rnn": (
        "crf_rnn",
        dict(
            network=dict(name="fcn_resnet", backbone="resnet18", width=2),
            mean=(120.0, 110.0, 100.0),
            std=(60.0, 60.0, 60.0),
            iterations=2,
            evaluation_iterations=3,
        ),
    ),
    "conv_rnn": ("conv_rnn", dict(network=dict(name="unet", width=2, depth=2), strides=(4,))),
    "conv_rnn, rfcn": (
        "conv_rnn",
        dict(
            network=dict(name="fcn", width=1, fc_channels=4, stride=8, batch_norm=True),
            cell="convlstm",
            peepholes=True,
            strides=(16, 8),
        ),
    ),
    "unet": ("unet", dict(width=2, depth=2)),
    "unet, original": ("unet", dict(width=2, depth=2, padding="valid", norm="none", dropout=0.5)),
    "espnet": ("espnet", dict(alpha2=1, alpha3=1)),
    "espnet, c": ("espnet", dict(alpha2=1, alpha3=1, decoder=False, void_output=True)),
    "deeplab_v1": ("deeplab_v1", dict(width=2, fc_channels=8, batch_norm=True)),
    "deeplab_v2": ("deeplab_v2", dict(backbone="resnet18", width=2, scales=(1.0, 0.5))),
    "deeplab_v3": ("deeplab_v3", dict(backbone="resnet18", width=2, features=8)),
    "deeplab_v3plus": ("deeplab_v3plus", dict(backbone="resnet18", width=2, features=8, skip_features=4)),
    "fc_densenet": ("fc_densenet", dict(layers=(1, 1, 1), growth=2, first_features=4)),
    "fcn": ("fcn", dict(width=1, fc_channels=4, stride=8, batch_norm=True)),
    "patch_cnn": ("patch_cnn", dict(window=33, kernel_sizes=(4, 4, 3), features=4, hidden=8)),
    "reseg": ("reseg", dict(width=2, hidden=(4, 4), up_features=(4, 4))),
    "segnet": ("segnet", dict(width=2)),
    "segnet, basic": ("segnet", dict(form="basic", width=8, dropout=0.5)),
    "pspnet": ("pspnet", dict(backbone="resnet18", width=4, channels=8)),
    "pspnet, smp": (
        "pspnet",
        dict(backbone="resnet18", form="smp", stem="7x7", deepest=8, auxiliary=False, width=2, channels=8),
    ),
    "unet_resnet": ("unet_resnet", dict(backbone="resnet18", width=2, decoder_channels=(8, 6, 4, 3, 2))),
    "unet_resnet, scse": (
        "unet_resnet",
        dict(backbone="resnet18", width=2, decoder_channels=(16, 16, 16, 16, 16), attention="scse"),
    ),
    "fcn_resnet": ("fcn_resnet", dict(backbone="resnet18", width=2)),
    "attention_unet": ("attention_unet", dict(width=2, depth=2)),
    "ccnet": ("ccnet", dict(backbone="resnet18", width=4, channels=16)),
    "danet": ("danet", dict(backbone="resnet18", width=4, channels=16)),
    "ocrnet": ("ocrnet", dict(backbone="resnet18", width=4, channels=16, key_channels=8)),
    "mask2former": (
        "mask2former",
        dict(
            backbone="resnet18",
            width=4,
            hidden=32,
            queries=6,
            encoder_layers=1,
            decoder_layers=3,
            heads=2,
            points=2,
            encoder_ffn=8,
            decoder_ffn=8,
        ),
    ),
    "nonlocal_net": ("nonlocal_net", dict(backbone="resnet18", width=2, channels=8)),
    "segformer": ("segformer", dict(width=4, depths=(1, 1, 1, 1), channels=8)),
    "segmenter": ("segmenter", dict(width=48, depth=2, heads=3, patch=8, image_size=64)),
    "segmenter, linear": (
        "segmenter",
        dict(width=12, depth=2, heads=3, patch=8, image_size=64, decoder="linear"),
    ),
    "upernet": (
        "upernet",
        dict(
            backbone="swin_tiny",
            width=8,
            head_dim=4,
            window=3,
            depths=(1, 2, 1, 1),
            channels=8,
            auxiliary_channels=4,
        ),
    ),
    "upernet, convnext": (
        "upernet",
        dict(backbone="convnext_tiny", width=8, depths=(1, 1, 1, 1), channels=8, auxiliary_channels=4),
    ),
    "lraspp": ("lraspp", dict(backbone="resnet18", filters=8)),
}
SHAPE = (2, 97, 131, 3)


def test_every_model_is_tested_here():
    assert {name for name, _ in SMALL.values()} == set(MODELS)


class Case(NamedTuple):
    name: str
    fields: dict
    model: nn.Module
    variables: dict
    logits: jax.Array  # of random_image(SHAPE)
    apply: Callable  # (variables, image of SHAPE) -> logits


SLOW = (
    "conv_rnn, rfcn",
    "espnet, c",
    "pspnet, smp",
    "segmenter, linear",
    "segnet, basic",
    "unet, original",
    "unet_resnet, scse",
    "upernet, convnext",
)
"""Other forms of models that are tested here, whose own tests compare them with a reference."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(value, id=n, marks=[pytest.mark.slow] * (n in SLOW)) for n, value in SMALL.items()],
)
def case(request):
    name, fields = request.param
    model = build_model(name, num_classes=5, **fields)
    variables = random_variables(model, (1, 32, 32, 3))
    apply = fast_jit(lambda v, x: model.apply(v, x, train=False))
    return Case(name, fields, model, variables, apply(variables, random_image(SHAPE)), apply)


def test_logits_are_float32_at_the_size_of_the_input(case):
    assert case.logits.shape == (*SHAPE[:3], 5) and case.logits.dtype == jnp.float32
    assert np.isfinite(case.logits).all() and np.ptp(case.logits) > 0


def test_an_image_does_not_depend_on_its_batch(case):
    other = random_image(SHAPE).at[1].set(3.0)
    np.testing.assert_allclose(case.apply(case.variables, other)[0], case.logits[0], rtol=1e-4, atol=1e-4)


def test_initialisers_give_finite_float32_variables(case):
    started = fast_jit(case.model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, case.variables)
    for leaf in jax.tree.leaves(started):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()


def test_bfloat16_computes_close_to_float32(case):
    low = build_model(case.name, num_classes=5, dtype="bfloat16", **case.fields)
    image = random_image(SHAPE)
    shapes = jax.eval_shape(lambda x: low.init(jax.random.key(0), x), image)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    logits = fast_jit(lambda v, x: low.apply(v, x))(case.variables, image)
    assert logits.dtype == jnp.float32
    # 8 bits of mantissa, a few dozen layers.
    # SegNet unpools a value elsewhere where two of a window are equal in 8 bits, and with random weights the scores of
    # CCNet and DANet, which are not scaled, are in the hundreds, so that the softmax jumps: few pixels, but much there.
    # scSE's gates, the sigmoid of such sums, do so too.
    jumps = case.name in ("segnet", "ccnet", "danet") or case.fields.get("attention") == "scse"
    share = 0.95 if jumps else 1.0
    assert np.quantile(np.abs(logits - case.logits), share) < 0.1 * np.abs(case.logits).max()
    assert not np.array_equal(logits, case.logits)


@pytest.mark.slow
def test_a_training_step_at_bfloat16_on_eight_devices(case):
    """It compiles for a mesh of 4 x 2 devices (the second axis splits parameters), and everything stays finite."""
    model = build_model(case.name, num_classes=5, dtype="bfloat16", **case.fields)
    info = DatasetInfo("x", tuple("abcde"), np.zeros((5, 3), np.uint8), None, (0, 0, 0), (1, 1, 1), ("train",))
    mesh = sharding.make_mesh(4, 2)
    optimizer = default_config().optimizer
    optimizer.name = "adamw"
    direction = optim.build_direction(optimizer)
    loss = losses.build_loss({"cross_entropy": 1.0}, num_classes=5)
    params = case.variables["params"]
    step = make_train_step(
        model,
        loss,
        losses.normaliser,
        direction,
        optim.build_schedule("constant", 1e-3, 10),
        optim.rate_factors(params, ()),
        mesh,
        seed=0,
        auxiliary_weight=0.4,
        mask_loss=build.mask_loss(default_config(), info),
    )
    state = create_state(case.variables, direction, ema=False)
    shardings = sharding.state_sharding(mesh, jax.eval_shape(lambda: state))
    state = jax.device_put(state, shardings)
    label = np.random.default_rng(0).integers(0, 5, (8, 33, 37)).astype(np.uint8)
    batch = sharding.put_batch(mesh, {"image": np.asarray(random_image((8, 33, 37, 3))), "label": label})
    compiled = jit_train_step(step, shardings, mesh).lower(state, batch).compile(FAST)
    before = jax.device_get((state.params, state.model_state))
    state, metrics = compiled(state, batch)
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"]) and metrics["nonfinite"] == 0
    for new in jax.tree.leaves(jax.device_get((state.params, state.model_state))):
        assert np.isfinite(new).all()
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before[1], jax.device_get(state.model_state))
    assert all(jax.tree.leaves(moved))


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

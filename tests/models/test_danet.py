"""DANet against a reference in PyTorch that loops over pixels and channels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule
from segjax.convert.torchvision import conv_and_norm, resnet
from segjax.core.batch import ATTENTION
from segjax.models.danet import VARIANTS, ChannelAttention, DANet
from segjax.models.layers.pixel_attention import SelfAttention, attend, attention_map
from tests.models.variables import fast_jit, random_image, random_variables

RULES = (
    *resnet(r"backbone\."),
    *conv_and_norm(r"(position|channel)_(in|out)", r"\1_\2"),
    Rule(r"position\.(query|key|value)", r"position/\1"),
    Rule(r"(position|channel)\.gamma", r"\1"),
    Rule(r"(head|position_head|channel_head)", r"\1"),
)
"""Names of tests/references/danet.py."""
SHAPE = (2, 35, 45, 3)
SMALL = dict(num_classes=5, backbone="resnet18", channels=32)


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


@pytest.mark.parametrize("attention", [True, False])
def test_logits_equal_the_reference(reference, attention):
    from tests.references.danet import DANet as Reference
    from tests.references.dilated_resnet import soften

    module = reference.randomised(Reference(5, 32, attention)).eval()
    soften(module.position, 0.003)
    model = DANet(**SMALL, attention=attention)
    variables = reference.converted(module, model, RULES)
    image = random_image(SHAPE)
    ours, maps = reference.fast_jit(lambda v, x: model.apply(v, x, mutable=[ATTENTION]))(variables, image)
    logits, *_ = module(reference.nchw(image))
    reference.assert_close(ours, reference.nhwc(logits))
    if attention:
        reference.assert_close(maps[ATTENTION]["position"]["map"][:, 0], module.position.found.numpy())
    else:
        assert not maps


def test_training_logits_and_gradients_equal_the_reference(reference):
    from tests.references.danet import DANet as Reference
    from tests.references.dilated_resnet import soften
    from tests.references.gradients import assert_same_gradients, mostly_active

    torch = reference.torch
    module = mostly_active(reference.randomised(Reference(5, 32))).train()
    soften(module.position, 0.1)
    model = DANet(**SMALL, dropout=0.0)
    variables = reference.converted(module, model, RULES)
    image = random_image(SHAPE)
    label = np.random.default_rng(0).integers(0, 5, image.shape[:3])

    def cross_entropy(logits):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1))

    def loss(params):
        output, state = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return sum(map(cross_entropy, (output.logits, *output.auxiliary))), (output, state)

    gradient, (output, state) = reference.fast_jit(jax.grad(loss, has_aux=True))(variables["params"])
    theirs = module(reference.nchw(image))
    for ours, their in zip((output.logits, *output.auxiliary), theirs, strict=True):
        reference.assert_close(ours, reference.nhwc(their))
    mean = module.channel_out[1].running_mean
    reference.assert_close(state["batch_stats"]["channel_out"]["norm"]["mean"], mean.numpy())
    sum(torch.nn.functional.cross_entropy(logits, torch.from_numpy(label)) for logits in theirs).backward()
    assert_same_gradients({"params": gradient}, module, RULES)


def test_channels_attend_to_those_that_are_least_like_them():
    # Two channels of two pixels are equal, the third is their negative: the energies are 0.5 and -0.5.
    channels = np.array([[0.1, 0.7], [0.1, 0.7], [-0.1, -0.7]])
    like, unlike = np.exp(-0.5), np.exp(0.5)
    first = channels[0] * (1 + (2 * like - unlike) / (2 * like + unlike))
    third = channels[2] * (1 + (like - 2 * unlike) / (like + 2 * unlike))
    x = jnp.asarray(channels.T, jnp.float32).reshape(1, 1, 2, 3)
    found = ChannelAttention().apply({"params": {"scale": jnp.ones(1)}}, x)
    np.testing.assert_allclose(found[0, 0], np.stack([first, first, third], 1), rtol=1e-5)


def test_attention_off_has_the_same_parameters():
    def shapes(attention):
        model = DANet(**SMALL, attention=attention)
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), random_image(SHAPE))

    assert shapes(True) == shapes(False)


def test_the_scales_start_at_zero():
    x = random_image((1, 3, 4, 16))
    for block in (SelfAttention(lambda q, k, v: v, lambda q, k: 0.0), ChannelAttention()):
        found, variables = fast_jit(block.init_with_output)(jax.random.key(0), x)
        assert jnp.array_equal(found, x)
        assert variables["params"]["scale"].shape == (1,)


def test_bfloat16_computes_close_to_float32():
    x = random_image((2, 3, 4, 16))
    look_up = functools.partial(attend, scale=1.0)
    for block in (SelfAttention(look_up, attention_map), ChannelAttention()):
        variables = random_variables(block, x.shape)
        full, half = (fast_jit(b.apply)(variables, x) for b in (block, block.clone(dtype=jnp.bfloat16)))
        assert half.dtype == jnp.bfloat16
        # Scores of up to 10 have errors of up to 10 / 2**8, and so have the logarithms of the weights.
        assert np.abs(half.astype(jnp.float32) - full).max() < 0.05 * np.abs(full).max()


@pytest.mark.parametrize("size", [(1, 1), (3, 17)])
def test_tiny_images(size):
    model = DANet(**SMALL, width=4)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert logits.shape == (2, *size, 5) and logits.dtype == jnp.float32


def test_multi_grid_keeps_the_output_stride():
    model = DANet(num_classes=19, **VARIANTS["resnet101_multi_grid"])
    image = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32)
    _, maps = jax.eval_shape(lambda x: model.apply(model.init(jax.random.key(0), x), x, mutable=[ATTENTION]), image)
    assert maps[ATTENTION]["position"]["map"].shape == (1, 1, 9, 9, 9, 9)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(backbone="vgg16"), "backbone must be a ResNet among BACKBONES; received 'vgg16'"),
        (dict(output_stride=4), r"output_stride must be in \(8, 16, 32\); received 4"),
        (dict(channels=0), "channels >= 1.*channels=0"),
        (dict(dropout=1.0), "dropout < 1; received .*dropout=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        DANet(num_classes=5, **fields)

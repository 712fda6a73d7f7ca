"""CCNet against a reference in PyTorch that loops over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule
from segjax.convert.torchvision import conv_and_norm, fcn_head, resnet
from segjax.core.batch import ATTENTION
from segjax.models.ccnet import CCNet, criss_cross, criss_cross_map
from segjax.models.layers.pixel_attention import SelfAttention
from tests.models.variables import fast_jit, random_image, random_variables

RULES = (
    *resnet(r"backbone\."),
    *conv_and_norm(r"(attention_in|attention_out)", r"\1"),
    Rule(r"criss_cross\.(query|key|value)", r"criss_cross/\1"),
    Rule(r"criss_cross\.gamma", "criss_cross"),
    *fcn_head("head", "head"),
    *fcn_head("auxiliary", "auxiliary_head"),
)
"""Names of tests/references/ccnet.py."""
SHAPE = (2, 17, 33, 3)
SMALL = dict(num_classes=5, backbone="resnet18", channels=32)


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


@pytest.mark.parametrize("attention", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_logits_equal_the_reference(reference, attention):
    from tests.references.ccnet import CCNet as Reference
    from tests.references.dilated_resnet import soften

    module = reference.randomised(Reference(5, 32, attention=attention)).eval()
    soften(module.criss_cross, 0.003)
    model = CCNet(**SMALL, attention=attention)
    variables = reference.converted(module, model, RULES)
    image = random_image(SHAPE)
    ours, maps = reference.fast_jit(lambda v, x: model.apply(v, x, mutable=[ATTENTION]))(variables, image)
    logits, _ = module(reference.nchw(image))
    reference.assert_close(ours, reference.nhwc(logits))
    if attention:  # the reference keeps the weights of the last recurrence
        reference.assert_close(maps[ATTENTION]["criss_cross"]["map"][:, 0], module.criss_cross.found.numpy())
    else:
        assert not maps


def test_training_logits_and_gradients_equal_the_reference(reference):
    from tests.references.ccnet import CCNet as Reference
    from tests.references.dilated_resnet import soften
    from tests.references.gradients import assert_same_gradients, mostly_active

    torch = reference.torch
    module = mostly_active(reference.randomised(Reference(5, 32))).train()
    soften(module.criss_cross, 0.1)
    model = CCNet(**SMALL, dropout=0.0)
    variables = reference.converted(module, model, RULES)
    image = random_image(SHAPE)
    label = np.random.default_rng(0).integers(0, 5, image.shape[:3])

    def cross_entropy(logits):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1))

    def loss(params):
        output, state = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return cross_entropy(output.logits) + 0.4 * cross_entropy(output.auxiliary[0]), (output, state)

    gradient, (output, state) = reference.fast_jit(jax.grad(loss, has_aux=True))(variables["params"])
    logits, auxiliary = module(reference.nchw(image))
    reference.assert_close(output.logits, reference.nhwc(logits))
    reference.assert_close(output.auxiliary[0], reference.nhwc(auxiliary))
    mean = module.attention_out[1].running_mean
    reference.assert_close(state["batch_stats"]["attention_out"]["norm"]["mean"], mean.numpy())
    losses = [torch.nn.functional.cross_entropy(x, torch.from_numpy(label)) for x in (logits, auxiliary)]
    (losses[0] + 0.4 * losses[1]).backward()
    assert_same_gradients({"params": gradient}, module, RULES)


def test_a_pixel_depends_on_its_cross_after_one_recurrence_and_on_all_after_two():
    block = SelfAttention(criss_cross, criss_cross_map)
    x = random_image((1, 4, 5, 8))
    variables = random_variables(block, x.shape)

    def dependence(recurrence):
        def of_one_pixel(x):
            for _ in range(recurrence):
                x = block.apply(variables, x)
            return x[0, 1, 3].sum()

        return (fast_jit(jax.grad(of_one_pixel))(x)[0] != 0).any(-1)

    cross = np.zeros((4, 5), bool)
    cross[1], cross[:, 3] = True, True
    np.testing.assert_array_equal(dependence(1), cross)
    assert dependence(2).all()


def test_bfloat16_computes_close_to_float32():
    x = random_image((2, 3, 4, 16))
    block = SelfAttention(criss_cross, criss_cross_map)
    variables = random_variables(block, x.shape)
    full, half = (fast_jit(b.apply)(variables, x) for b in (block, block.clone(dtype=jnp.bfloat16)))
    assert half.dtype == jnp.bfloat16
    # Scores of up to 10 have errors of up to 10 / 2**8, and so have the logarithms of the weights.
    assert np.abs(half.astype(jnp.float32) - full).max() < 0.05 * np.abs(full).max()


def test_memory_is_not_quadratic_in_the_pixels():
    x = jax.ShapeDtypeStruct((1, 64, 64, 8), jnp.float32)
    gradient = jax.jit(jax.grad(lambda q, k, v: criss_cross(q, k, v).sum(), (0, 1, 2)))
    text = gradient.lower(x, x, x).as_text()
    assert "64x64x128xf32" in text and "4096x4096" not in text and "64x64x64x64" not in text


def test_attention_off_has_the_same_parameters():
    def shapes(attention):
        model = CCNet(**SMALL, attention=attention)
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), random_image(SHAPE))

    assert shapes(True) == shapes(False)


@pytest.mark.parametrize("size", [(1, 1), (3, 17)])
def test_tiny_images(size):
    model = CCNet(**SMALL, width=4)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert logits.shape == (2, *size, 5) and logits.dtype == jnp.float32


def test_a_single_pixel_attends_to_itself():
    x = random_image((2, 1, 1, 8))
    found, gradient = fast_jit(jax.value_and_grad(lambda x: criss_cross(x, x, x).sum()))(x)
    np.testing.assert_allclose(found, x.sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(backbone="vgg16"), "backbone must be a ResNet among BACKBONES; received 'vgg16'"),
        (dict(output_stride=4), r"output_stride must be in \(8, 16, 32\); received 4"),
        (dict(dropout=1.0), "dropout < 1; received .*dropout=1.0"),
        (dict(recurrence=0), "recurrence >= 1.*recurrence=0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        CCNet(num_classes=5, **fields)

"""Non-local block and network against references in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule
from segjax.convert.torchvision import conv_and_norm, fcn_head, resnet
from segjax.core.batch import ATTENTION
from segjax.models.layers.nonlocal_block import FORMS, NonLocalBlock
from segjax.models.nonlocal_net import NonLocalNet
from segjax.training.state import named_leaves
from tests.models.variables import fast_jit, random_image, random_variables

BLOCK_RULES = (
    Rule(r"(theta|phi|g)", r"\1"),
    Rule(r"conv_out", "out"),
    Rule(r"bn_out", "norm"),
)
RULES = (
    *resnet(""),
    *conv_and_norm("enter", "conv_in"),
    *(Rule(rf"nl_block\.{pattern}", f"nonlocal/{path}") for pattern, path, _ in BLOCK_RULES),
    *conv_and_norm("leave", "conv_out"),
    *fcn_head("classifier", "head"),
    *fcn_head("aux_classifier", "auxiliary_head"),
)
"""Names of tests/references/nonlocal_net.py."""


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_block_and_its_gradients_equal_the_reference(reference, form, attention):
    from tests.references.gradients import assert_same_gradients
    from tests.references.nonlocal_net import NonLocal

    module = reference.randomised(NonLocal(16, form, attention)).train()
    model = NonLocalBlock(2, form, attention)

    class WithMode:  # `converted` initialises a model by its image alone
        def init(self, key, x):
            return model.init(key, x, train=True)

    variables = reference.converted(module, WithMode(), BLOCK_RULES, (1, 4, 4, 16))
    x, weight = random_image((2, 5, 7, 16)), random_image((2, 5, 7, 16), seed=2)
    theirs = reference.nchw(x).requires_grad_()

    def product(params, x):
        kept = ["batch_stats", ATTENTION]
        y, changed = model.apply({**variables, "params": params}, x, train=True, mutable=kept)
        return (y * weight).sum(), (y, changed)

    run = fast_jit(jax.grad(product, argnums=(0, 1), has_aux=True))
    (gradient, d_x), (ours, changed) = run(variables["params"], x)
    expected = module(theirs)
    (expected * reference.nchw(weight)).sum().backward()
    reference.assert_close(ours, reference.nhwc(expected))
    reference.assert_close(d_x, reference.nhwc(theirs.grad))
    assert_same_gradients({"params": gradient}, module, BLOCK_RULES)
    statistics = reference.converted(module, WithMode(), BLOCK_RULES, (1, 4, 4, 16))["batch_stats"]
    reference.assert_close(changed["batch_stats"]["norm"]["mean"], statistics["norm"]["mean"])
    if attention:
        found = changed[ATTENTION]["weights"]
        assert found.shape == (2, 1, 5, 7, 5, 7) and found.dtype == jnp.float32
        reference.assert_close(found.reshape(2, 35, 35), module.weights.detach())
    else:
        assert ATTENTION not in changed


@pytest.mark.parametrize("form", FORMS)
def test_memory_is_linear_in_the_positions(form):
    block = NonLocalBlock(form=form)
    x = random_image((1, 64, 64, 4))
    variables = random_variables(block, x.shape, train=False)
    gradient = fast_jit(jax.grad(lambda v, x: block.apply(v, x, train=True, mutable=["batch_stats"])[0].sum()))
    memory = gradient.lower(variables, x).compile().memory_analysis().temp_size_in_bytes
    assert memory < 4 * 4096**2 / 2  # half of one float32 matrix of all weights


def test_a_new_block_is_the_identity():
    block = NonLocalBlock()
    x = random_image((2, 4, 4, 8))
    run = fast_jit(lambda x: block.init_with_output(jax.random.key(0), x, train=True)[0])
    np.testing.assert_array_equal(run(x), x)


def test_logits_equal_the_reference(reference):
    from tests.references.nonlocal_net import NonLocalNet as Reference

    module = reference.randomised(Reference(5, "dot_product", channels=24)).eval()
    model = NonLocalNet(5, backbone="resnet18", channels=24, form="dot_product")
    variables = reference.converted(module, model, RULES)
    image = random_image((2, 49, 67, 3))
    ours = fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))[0]))


def test_training_logits_gradients_and_statistics_equal_the_reference(reference):
    from tests.references.gradients import assert_same_gradients, mostly_active
    from tests.references.nonlocal_net import NonLocalNet as Reference

    module = mostly_active(reference.randomised(Reference(5, "embedded_gaussian", channels=24))).train()
    model = NonLocalNet(5, backbone="resnet18", channels=24, dropout=0.0)
    variables = reference.converted(module, model, RULES)
    image = random_image((2, 33, 41, 3))
    label = np.random.default_rng(0).integers(0, 5, image.shape[:3])

    def cross_entropy(logits):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1))

    def loss(params):
        output, changed = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return cross_entropy(output.logits) + 0.4 * cross_entropy(output.auxiliary[0]), (output, changed)

    gradient, (ours, changed) = fast_jit(jax.grad(loss, has_aux=True))(variables["params"])
    theirs = module(reference.nchw(image))
    for found, expected in zip((ours.logits, *ours.auxiliary), theirs, strict=True):
        reference.assert_close(found, reference.nhwc(expected))
    target = reference.torch.from_numpy(label)
    losses = [reference.torch.nn.functional.cross_entropy(logits, target) for logits in theirs]
    (losses[0] + 0.4 * losses[1]).backward()
    assert_same_gradients({"params": gradient}, module, RULES)
    expected = dict(named_leaves(reference.converted(module, model, RULES)["batch_stats"]))
    for path, statistic in named_leaves(changed["batch_stats"]):
        reference.assert_close(statistic, expected[path])


def test_parameters_are_the_same_without_attention():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = [
        jax.eval_shape(NonLocalNet(5, backbone="resnet18", **fields).init, jax.random.key(0), image)
        for fields in (dict(), dict(attention=False), dict(form="dot_product"), dict(auxiliary=True))
    ]
    assert all(other == shapes[0] for other in shapes[1:])


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_is_close_to_float32(form):
    x = random_image((2, 9, 11, 32))
    blocks = [NonLocalBlock(form=form, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    variables = random_variables(blocks[0], x.shape, train=False)
    full, half = (fast_jit(lambda v, x, b=b: b.apply(v, x, train=False))(variables, x) for b in blocks)
    assert half.dtype == jnp.bfloat16
    # 8 bits of mantissa, half a dozen roundings.
    assert np.abs(half.astype(jnp.float32) - full).max() < 0.03 * np.abs(full).max()


@pytest.mark.parametrize("size", [(1, 1), (3, 17)])
def test_tiny_images(size):
    model = NonLocalNet(3, backbone="resnet18", width=2, channels=4)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert logits.shape == (2, *size, 3)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(backbone="vgg16"), "backbone must be a ResNet among BACKBONES; received 'vgg16'"),
        (dict(stem="3x3"), r"stem must be in \('7x7', 'deeplab'\); received '3x3'"),
        (dict(output_stride=4), r"output_stride must be in \(8, 16, 32\); received 4"),
        (dict(form="gaussian"), r"form must be in \('embedded_gaussian', 'dot_product'\); received 'gaussian'"),
        (dict(channels=4, reduction=8), "1 <= reduction <= channels.*received reduction=8, channels=4"),
        (dict(width=0), "width >= 1 .*received .*width=0"),
        (dict(dropout=1.0), "dropout < 1; received .*dropout=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        NonLocalNet(5, **fields)

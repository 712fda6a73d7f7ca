"""OCRNet against a reference in PyTorch that loops over regions and pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule
from segjax.convert.torchvision import conv_and_norm, fcn_head, resnet
from segjax.core.batch import ATTENTION
from segjax.models.ocrnet import OCRNet
from tests.models.variables import random_image

TRANSFORMS = {"phi": "query", "psi": "key"}
RULES = (
    *resnet(r"backbone\."),
    *fcn_head("region_head", "region_head"),
    *conv_and_norm("pixels", "pixels"),
    *(
        Rule(rf"{theirs}\.{index}", f"{ours}{1 + index // 3}/{('conv', 'norm')[index % 3]}")
        for theirs, ours in TRANSFORMS.items()
        for index in (0, 1, 3, 4)
    ),
    *conv_and_norm("delta", "value"),
    *conv_and_norm("rho", "context"),
    *conv_and_norm("augment", "augmented"),
    Rule("head", "head"),
)
"""Names of tests/references/ocrnet.py."""
SHAPE = (2, 25, 37, 3)
SMALL = dict(num_classes=5, backbone="resnet18", channels=32, key_channels=16)


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


def scaled(module, factor):
    """Smaller logits and queries: those of a random network give nearly all weight to one pixel and one region."""
    for layer in (module.region_head[4], module.phi[4]):
        for parameter in layer.parameters():
            parameter.data.mul_(factor)
    return module


@pytest.mark.parametrize("attention", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_logits_equal_the_reference(reference, attention):
    from tests.references.ocrnet import OCRNet as Reference

    module = scaled(reference.randomised(Reference(5, 32, 16, attention)), 0.1).eval()
    model = OCRNet(**SMALL, attention=attention)
    variables = reference.converted(module, model, RULES)
    image = random_image(SHAPE)
    ours, maps = reference.fast_jit(lambda v, x: model.apply(v, x, mutable=[ATTENTION]))(variables, image)
    logits, _ = module(reference.nchw(image))
    reference.assert_close(ours, reference.nhwc(logits))
    if attention:
        regions, pixels = maps[ATTENTION]["region_map"], maps[ATTENTION]["pixel_map"]
        reference.assert_close(regions[:, 0, 0], module.region_weights.numpy())
        reference.assert_close(pixels[:, 0, :, :, 0], module.pixel_weights.numpy())


def test_training_logits_and_gradients_equal_the_reference(reference):
    from tests.references.gradients import assert_same_gradients, mostly_active
    from tests.references.ocrnet import OCRNet as Reference

    torch = reference.torch
    module = scaled(mostly_active(reference.randomised(Reference(5, 32, 16))), 0.3).train()
    # Were δ positive everywhere, its bias would be removed by the norm of ρ, and its gradient nothing but rounding.
    module.delta[1].bias.data.zero_()
    model = OCRNet(**SMALL, dropout=0.0)
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
    mean = module.psi[1].running_mean
    reference.assert_close(state["batch_stats"]["key1"]["norm"]["mean"], mean.numpy())
    losses = [torch.nn.functional.cross_entropy(x, torch.from_numpy(label)) for x in (logits, auxiliary)]
    (losses[0] + 0.4 * losses[1]).backward()
    assert_same_gradients({"params": gradient}, module, RULES)


def test_attention_off_has_the_same_parameters():
    def shapes(attention):
        model = OCRNet(**SMALL, attention=attention)
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), random_image(SHAPE))

    assert shapes(True) == shapes(False)


@pytest.mark.parametrize("size", [(1, 1), (3, 17)])
def test_tiny_images(size):
    model = OCRNet(**SMALL, width=4)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert logits.shape == (2, *size, 5) and logits.dtype == jnp.float32


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(backbone="vgg16"), "backbone must be a ResNet among BACKBONES; received 'vgg16'"),
        (dict(output_stride=4), r"output_stride must be in \(8, 16, 32\); received 4"),
        (dict(dropout=1.0), "dropout < 1; received .*dropout=1.0"),
        (dict(key_channels=0), "key_channels >= 1.*key_channels=0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        OCRNet(num_classes=5, **fields)

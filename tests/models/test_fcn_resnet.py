"""FCN on ResNet against torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import convert
from segjax.convert.torchvision import FCN_RESNET
from segjax.models import build_model, count_params
from segjax.models.fcn_resnet import VARIANTS
from segjax.training.state import named_leaves
from tests.models.variables import random_image

SHAPE = (2, 65, 97, 3)


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


def torchvision_network(reference, name="fcn_resnet50"):
    networks = reference.library("torchvision").models.segmentation
    module = getattr(networks, name)(weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    for layer in module.modules():
        if isinstance(layer, reference.torch.nn.Dropout):
            layer.p = 0.0
    return reference.randomised(module)


@pytest.mark.parametrize("variant, published", [("resnet50", 35_322_218), ("resnet101", 54_314_346)])
def test_number_of_parameters_is_that_of_the_published_weights(variant, published):
    model = build_model("fcn_resnet", num_classes=21, **VARIANTS[variant])
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jax.ShapeDtypeStruct(SHAPE, jnp.float32))
    assert count_params(shapes) == published


@pytest.mark.parametrize(
    "name, shape",
    [
        ("fcn_resnet50", (2, 97, 131, 3)),
        pytest.param("fcn_resnet50", (2, 64, 96, 3), marks=pytest.mark.slow),
        pytest.param("fcn_resnet101", SHAPE, marks=pytest.mark.slow),
    ],
)
def test_logits_equal_torchvision(reference, name, shape):
    module = torchvision_network(reference, name).eval()
    model = build_model("fcn_resnet", num_classes=5, backbone=name.removeprefix("fcn_"))
    variables = reference.converted(module, model, FCN_RESNET)
    image = random_image(shape)
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))["out"]))


def test_training_logits_and_gradients_equal_torchvision(reference):
    from tests.references.gradients import assert_same_gradients, mostly_active

    torch = reference.torch
    module = mostly_active(torchvision_network(reference)).train()
    model = build_model("fcn_resnet", num_classes=5, dropout=0.0)
    variables = reference.converted(module, model, FCN_RESNET)
    image = random_image((2, 33, 41, 3))
    label = np.random.default_rng(0).integers(0, 5, image.shape[:3])

    def cross_entropy(logits):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1))

    def loss(params):
        output, _ = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return cross_entropy(output.logits) + 0.5 * cross_entropy(output.auxiliary[0]), output

    gradient, output = reference.fast_jit(jax.grad(loss, has_aux=True))(variables["params"])
    theirs = module(reference.nchw(image))
    reference.assert_close(output.logits, reference.nhwc(theirs["out"]))
    reference.assert_close(output.auxiliary[0], reference.nhwc(theirs["aux"]))
    target = torch.from_numpy(label)
    losses = [torch.nn.functional.cross_entropy(theirs[key], target) for key in ("out", "aux")]
    (losses[0] + 0.5 * losses[1]).backward()
    assert_same_gradients({"params": gradient}, module, FCN_RESNET)


def test_weights_of_a_classifier_fit_the_backbone(reference):
    module = reference.library("torchvision").models.resnet18(num_classes=3)
    model = build_model("fcn_resnet", num_classes=5, backbone="resnet18")
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.zeros(SHAPE))
    target = dict(named_leaves(shapes))
    found, report = convert(reference.state_arrays(module), target, FCN_RESNET)
    assert not report.unknown and not report.mismatched
    assert set(found) == {path for path in target if "/backbone/" in path}
    assert {key for key, why in report.skipped if "counter" not in why} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(backbone="vgg16"), "backbone must be a ResNet among BACKBONES; received 'vgg16'"),
        (dict(output_stride=4), r"output_stride must be in \(8, 16, 32\); received 4"),
        (dict(dropout=1.0), "dropout < 1; received .*dropout=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        build_model("fcn_resnet", num_classes=5, **fields)

"""DeepLab v3 against torchvision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.torchvision import DEEPLAB_V3
from segjax.models import build_model, count_params
from segjax.models.deeplab_v3 import VARIANTS, DeepLabV3
from segjax.models.layers.aspp import ASPP
from tests.models.variables import fast_jit, random_image, random_variables

# torchvision's documentation of the weights: 21 classes, with the auxiliary head.
PUBLISHED_PARAMETERS = {
    "torchvision-resnet50": 42_004_074,
    "torchvision-resnet101": 60_996_202,
    "torchvision-mobilenet-v3-large": 11_029_328,
}


def shapes_of(model, shape=(2, 65, 97, 3)):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)


@pytest.mark.parametrize("variant", PUBLISHED_PARAMETERS)
def test_torchvision_has_the_published_number_of_parameters(variant):
    model = build_model("deeplab_v3", num_classes=21, **VARIANTS[variant])
    logits, variables = shapes_of(model)
    assert count_params(variables) == PUBLISHED_PARAMETERS[variant] and logits.shape == (2, 65, 97, 21)


def test_the_papers_form_is_the_pyramid_alone():
    # Section 3.3: five branches of 256 channels and a projection, each normalised, and the logits.
    model = build_model("deeplab_v3", num_classes=21, **VARIANTS["resnet101-os16"])
    branches = 2048 * 256 * (1 + 3 * 9 + 1) + 5 * 2 * 256
    count = 44_549_160 - (2048 + 1) * 1000 + branches + 5 * 256 * 256 + 2 * 256 + (256 + 1) * 21
    assert count_params(shapes_of(model)[1]) == count


def test_without_image_pooling_a_branch_is_missing():
    """Table 5's other rows: what is left is the pyramid whose projection gives the branch no weight."""
    bare, full = ASPP((1, 2), features=4, dropout=0.0, pooling=False), ASPP((1, 2), features=4, dropout=0.0)
    variables = random_variables(bare, (1, 9, 9, 3), train=False)
    grown = random_variables(full, (1, 9, 9, 3), train=False, seed=1)
    for collection, trees in variables.items():
        grown[collection] = {**grown[collection], **trees}
    project = variables["params"]["project"]
    assert project["conv"]["kernel"].shape[2] == 3 * 4
    kernel = jnp.pad(project["conv"]["kernel"], ((0, 0), (0, 0), (0, 4), (0, 0)))
    grown["params"]["project"] = {**project, "conv": {"kernel": kernel}}
    image = random_image((2, 9, 12, 3))

    def both(a, b, x):
        return bare.apply(a, x, train=False), full.apply(b, x, train=False)

    np.testing.assert_allclose(*fast_jit(both)(variables, grown, image), rtol=1e-5, atol=1e-5)
    network = build_model("deeplab_v3", num_classes=3, backbone="resnet18", width=4, features=4, image_pooling=False)
    pyramid = shapes_of(network)[1]["params"]["aspp"]
    assert sorted(pyramid) == ["branch_0", "branch_1", "branch_2", "branch_3", "project"]


def torchvision_pair(variant, train):
    reference = pytest.importorskip("tests.references.pytorch")
    networks = reference.library("torchvision").models.segmentation
    name = "deeplabv3_" + variant.removeprefix("torchvision-").replace("-", "_")
    module = getattr(networks, name)(weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    module = reference.randomised(module).train(train)
    for layer in module.modules():
        if isinstance(layer, reference.torch.nn.Dropout):
            layer.p = 0.0
    model = DeepLabV3(num_classes=5, **{**VARIANTS[variant], "dropout": 0.0, "auxiliary_dropout": 0.0})
    return reference, module, model, reference.converted(module, model, DEEPLAB_V3)


@pytest.mark.parametrize(
    "variant",
    [
        "torchvision-resnet50",
        "torchvision-mobilenet-v3-large",
        pytest.param("torchvision-resnet101", marks=pytest.mark.slow),
    ],
)
def test_logits_equal_torchvision(variant):
    reference, module, model, variables = torchvision_pair(variant, train=False)
    image = random_image((2, 97, 131, 3))
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))["out"]))


def test_training_logits_equal_torchvision(variant="torchvision-resnet50"):
    reference, module, model, variables = torchvision_pair(variant, train=True)
    # The pooled branch is normalised over one number an image, so the images must differ in contrast.
    image = random_image((8, 65, 65, 3)) * jnp.linspace(0.5, 2, 8)[:, None, None, None]

    def apply(variables, image):
        return model.apply(variables, image, train=True, mutable=["batch_stats"])[0]

    ours = reference.fast_jit(apply)(variables, image)
    theirs = module.double()(reference.nchw(image).double())
    # PyTorch's own float32 logits differ from these, in float64, by 1e-4.
    reference.assert_close(ours.logits, reference.nhwc(theirs["out"]), tolerance=2e-4)
    (auxiliary,) = ours.auxiliary
    reference.assert_close(auxiliary, reference.nhwc(theirs["aux"]))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(output_stride=4), "output_stride in .*received output_stride=4"),
        (dict(auxiliary_level=32), "auxiliary_level in .*received.*auxiliary_level=32"),
        (dict(rates=()), r"one or more rates >= 1; received \(\)"),
        (dict(backbone="xception65", multi_grid=(1, 2, 4)), r"multi_grid needs a ResNet.*'xception65' and \(1, 2, 4\)"),
        (dict(backbone="mobilenet_v3_large", dilate_first=True), "dilate_first needs .*'mobilenet_v3_large'"),
        (dict(dropout=1.0), "dropout.* < 1; received.*dropout=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        DeepLabV3(num_classes=2, **fields)


@pytest.mark.parametrize("model", ["deeplab_v3", "deeplab_v3plus"])
def test_densenet_is_a_backbone_and_one_without_output_stride_is_refused(model):
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)

    def shapes(backbone):
        network = build_model(model, num_classes=3, backbone=backbone, width=8)
        return jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x), image)

    logits, variables = shapes("densenet121")
    assert logits.shape == (2, 64, 64, 3)
    assert variables["params"]["backbone"]["conv0"]["conv"]["kernel"].shape[-1] == 8  # 64 / 8
    with pytest.raises(ValueError, match="the backbone must be one of densenet121, .* received 'swin_tiny'"):
        shapes("swin_tiny")

"""ResNet against torchvision and, for the stem of DeepLab, against timm."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.torchvision import RESNET
from segjax.models import count_params
from segjax.models.backbones import BACKBONES, build_backbone
from segjax.models.backbones.resnet import ResNet, ResNetClassifier
from tests.models.variables import random_image

SHAPE = (2, 65, 97, 3)
# torchvision's documentation of the weights, 1000 classes.
PUBLISHED_PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}


def shapes_of(model, shape=SHAPE):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)


@pytest.mark.parametrize("depth", PUBLISHED_PARAMETERS)
def test_classifier_has_the_published_number_of_parameters(depth):
    logits, variables = shapes_of(ResNetClassifier(depth=depth))
    assert count_params(variables) == PUBLISHED_PARAMETERS[depth] and logits.shape == (2, 1000)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("fields", [{}, dict(output_stride=16, stem="deeplab"), dict(output_stride=8, deepest=16)])
def test_features_are_those_that_feature_info_announces(depth, fields):
    model = ResNet(depth=depth, width=8, **fields)
    features, _ = shapes_of(model)
    assert list(features) == [info.level for info in model.feature_info]
    assert max(features) == fields.get("deepest", 32)
    for level, stride, channels in model.feature_info:
        assert stride == min(level, fields.get("output_stride", 32))
        assert features[level].shape == (2, -(-65 // stride), -(-97 // stride), channels)


def test_published_channels():
    assert [info.channels for info in ResNet().feature_info] == [64, 256, 512, 1024, 2048]
    assert [info.channels for info in ResNet(depth=34, stem="deeplab").feature_info] == [128, 64, 128, 256, 512]


def test_every_depth_is_among_the_backbones():
    for depth in PUBLISHED_PARAMETERS:
        assert build_backbone(f"resnet{depth}", dtype=jnp.float32, output_stride=8).depth == depth
        assert f"resnet{depth}" in BACKBONES


def test_one_pixel_is_enough():
    features, _ = shapes_of(ResNet(depth=18, width=1), (1, 1, 1, 3))
    assert {feature.shape[1:3] for feature in features.values()} == {(1, 1)}


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(depth=20), r"depth must be in \(18, 34, 50, 101, 152\); received 20"),
        (dict(output_stride=4), r"output_stride must be in \(32, 16, 8\); received 4"),
        (dict(stem="3x3"), "stem must be in .*received '3x3'"),
        (dict(deepest=2), "deepest must be in .*received 2"),
        (dict(multi_grid=(1, 2)), r"each of the 3 blocks of the last stage, or none; received \(1, 2\)"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**fields)


def strides_and_dilations(model):
    """Of each 3x3 convolution in the order of the calls."""
    found = []

    def record(call, args, kwargs, context):
        layer = context.module
        if isinstance(layer, nn.Conv) and layer.kernel_size == (3, 3):
            found.append((layer.strides[0], layer.kernel_dilation[0]))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes_of(model)
    return found


@pytest.mark.parametrize(
    "fields, expected",
    [
        # torchvision's replace_stride_with_dilation=[False, True, True].
        (dict(output_stride=8), [1, 2, 2, 2, 2, 2, 2, 4, 4]),
        # PSPNet: all of stage 4 by 2 and all of stage 5 by 4.
        (dict(output_stride=8, dilate_first=True), [2, 2, 2, 2, 2, 2, 4, 4, 4]),
        # DeepLab v3, section 3.2: output stride 16, multi-grid (1, 2, 4), final rates (2, 4, 8).
        (dict(output_stride=16, multi_grid=(1, 2, 4)), [1, 1, 1, 1, 1, 1, 2, 4, 8]),
        (dict(output_stride=32, multi_grid=(1, 2, 1)), [1, 1, 1, 1, 1, 1, 1, 2, 1]),
    ],
)
def test_dilation_of_each_block(fields, expected):
    found = strides_and_dilations(ResNet(width=1, **fields))[-9:]
    assert [dilation for _, dilation in found] == expected
    strided = {32: [0, 6], 16: [0], 8: []}[fields["output_stride"]]
    assert [i for i, (stride, _) in enumerate(found) if stride == 2] == strided


# Against PyTorch


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "depth, train",
    [(18, True), (50, False)]
    + [pytest.param(depth, train, marks=SLOW) for depth, train in ((34, True), (50, True), (101, False), (152, False))],
)
def test_logits_equal_torchvision(depth, train):
    reference = pytest.importorskip("tests.references.pytorch")
    torchvision = reference.library("torchvision")
    module = reference.randomised(getattr(torchvision.models, f"resnet{depth}")(num_classes=7)).train(train)
    model = ResNetClassifier(num_classes=7, depth=depth)
    variables = reference.converted(module, model, RESNET)
    image = random_image((2, 97, 131, 3))
    ours = reference.fast_jit(lambda v, x: model.apply(v, x, train=train))(variables, image)
    reference.assert_close(ours, module(reference.nchw(image)).detach().numpy())


@pytest.mark.parametrize("output_stride", [pytest.param(16, marks=SLOW), 8])
def test_dilated_features_equal_torchvision(output_stride):
    reference = pytest.importorskip("tests.references.pytorch")
    torchvision = reference.library("torchvision")
    dilate = [False, output_stride == 8, True]
    module = reference.randomised(torchvision.models.resnet50(replace_stride_with_dilation=dilate)).eval()
    variables = reference.converted(module, ResNetClassifier(), RESNET)
    variables = {collection: tree["backbone"] for collection, tree in variables.items()}
    image = random_image(SHAPE)
    ours = reference.fast_jit(ResNet(output_stride=output_stride).apply)(variables, image)
    x = module.maxpool(module.relu(module.bn1(module.conv1(reference.nchw(image)))))
    for level, layer in ((4, module.layer1), (8, module.layer2), (16, module.layer3), (32, module.layer4)):
        x = layer(x)
        reference.assert_close(ours[level], reference.nhwc(x))


@pytest.mark.parametrize("output_stride", [pytest.param(32, marks=SLOW), 8])
def test_deeplab_stem_and_dilated_first_blocks_equal_pytorch(output_stride):
    reference = pytest.importorskip("tests.references.pytorch")
    timm, smp = reference.library("timm"), reference.library("segmentation_models_pytorch")
    module = timm.create_model("resnet50s", num_classes=0)
    for rate, layer in ((2, module.layer3), (4, module.layer4)):
        if output_stride == 8:
            smp.encoders._utils.replace_strides_with_dilation(layer, rate)
    module = reference.randomised(module).eval()
    model = build_backbone("resnet50", stem="deeplab", output_stride=output_stride, dilate_first=True)
    rules = [rule._replace(path=rule.path.removeprefix("backbone/")) for rule in RESNET]
    variables = reference.converted(module, model, rules)
    image = random_image(SHAPE)
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours[32], reference.nhwc(module.forward_features(reference.nchw(image))))


def test_basic_blocks_are_dilated_as_in_smp():
    reference = pytest.importorskip("tests.references.pytorch")
    smp = reference.library("segmentation_models_pytorch")
    module = smp.encoders.get_encoder("resnet18", weights=None, output_stride=16)
    module = reference.randomised(module).eval()
    model = build_backbone("resnet18", output_stride=16, dilate_first=True)
    rules = [rule._replace(path=rule.path.removeprefix("backbone/")) for rule in RESNET]
    image = random_image((2, 64, 96, 3))
    ours = reference.fast_jit(model.apply)(reference.converted(module, model, rules), image)
    for level, theirs in zip(ours, module(reference.nchw(image))[1:], strict=True):
        reference.assert_close(ours[level], reference.nhwc(theirs))
    np.testing.assert_equal(list(ours), [2, 4, 8, 16, 32])

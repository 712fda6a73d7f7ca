"""MobileNetV2 against torchvision and, dilated, against segmentation_models.pytorch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from segjax.convert.torchvision import MOBILENET_V2
from segjax.models import count_params
from segjax.models.backbones import build_backbone
from segjax.models.backbones.mobilenet_v2 import MobileNetV2, MobileNetV2Classifier
from tests.models.variables import random_image

SHAPE = (2, 65, 97, 3)
WITHOUT_PREFIX = [rule._replace(path=rule.path.removeprefix("backbone/")) for rule in MOBILENET_V2]


def shapes_of(model, shape=SHAPE):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)


def test_classifier_has_the_published_number_of_parameters():
    logits, variables = shapes_of(MobileNetV2Classifier())
    assert count_params(variables) == 3_504_872 and logits.shape == (2, 1000)  # torchvision's documentation


@pytest.mark.parametrize("fields", [{}, dict(output_stride=16, last_conv=False), dict(output_stride=8)])
def test_features_are_those_that_feature_info_announces(fields):
    model = MobileNetV2(**fields)
    features, _ = shapes_of(model)
    assert list(features) == [info.level for info in model.feature_info]
    for level, stride, channels in model.feature_info:
        assert stride == min(level, fields.get("output_stride", 32))
        assert features[level].shape == (2, -(-65 // stride), -(-97 // stride), channels)
    assert [info.channels for info in model.feature_info][:4] == [16, 24, 32, 96]  # table 2
    assert build_backbone("mobilenet_v2_320").feature_info[-1].channels == 320
    assert MobileNetV2(width_multiplier=0.5).feature_info[-1].channels == 1280


def test_logits_equal_torchvision(train=True):
    reference = pytest.importorskip("tests.references.pytorch")
    module = reference.library("torchvision").models.mobilenet_v2(num_classes=7, dropout=0.0)
    module = reference.randomised(module).train(train)
    model = MobileNetV2Classifier(num_classes=7, dropout=0.0)
    variables = reference.converted(module, model, MOBILENET_V2)
    image = random_image((2, 97, 131, 3))
    ours = reference.fast_jit(lambda v, x: model.apply(v, x, train=train))(variables, image)
    reference.assert_close(ours, module(reference.nchw(image)).detach().numpy())


def test_dilated_features_equal_smp(output_stride=8):
    reference = pytest.importorskip("tests.references.pytorch")
    smp = reference.library("segmentation_models_pytorch")
    module = smp.encoders.get_encoder("mobilenet_v2", weights=None, output_stride=output_stride)
    module = reference.randomised(module).eval()
    model = build_backbone("mobilenet_v2", output_stride=output_stride, dilate_first=True)
    variables = reference.converted(module, model, WITHOUT_PREFIX)
    image = random_image(SHAPE)
    ours = reference.fast_jit(model.apply)(variables, image)
    for level, theirs in zip(ours, module(reference.nchw(image))[1:], strict=True):
        reference.assert_close(ours[level], reference.nhwc(theirs))


def depthwise_dilations(**fields):
    """(stride, dilation) of each depthwise convolution."""
    found = []

    def intercept(call, args, kwargs, context):
        if context.module.name == "depthwise":
            found.append((context.module.strides[0], context.module.dilation[0]))
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        shapes_of(MobileNetV2(**fields))
    return found


@pytest.mark.parametrize(
    "fields, expected",
    [
        # The authors' code: the block whose stride is gone still has the dilation of those before it.
        (dict(output_stride=16), [1] * 14 + [2] * 3),
        (dict(output_stride=8), [1] * 7 + [2] * 7 + [4] * 3),
        (dict(output_stride=16, dilate_first=True), [1] * 13 + [2] * 4),
    ],
)
def test_dilation_of_each_block(fields, expected):
    found = depthwise_dilations(**fields)
    assert [dilation for _, dilation in found] == expected
    strided = {16: [1, 3, 6], 8: [1, 3]}[fields["output_stride"]]
    assert [i for i, (stride, _) in enumerate(found) if stride == 2] == strided


@pytest.mark.parametrize("fields", [dict(output_stride=4), dict(width_multiplier=0.0)])
def test_wrong_fields_are_explained(fields):
    (field,) = fields
    with pytest.raises(ValueError, match=f"{field}.*received.*{field}={fields[field]}"):
        MobileNetV2(**fields)

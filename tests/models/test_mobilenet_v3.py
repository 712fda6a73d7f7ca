import jax
import jax.numpy as jnp
import pytest

from segjax.convert.torchvision import MOBILENET_V3
from segjax.models import count_params
from segjax.models.backbones import build_backbone
from segjax.models.backbones.mobilenet_v3 import MobileNetV3, MobileNetV3Classifier, multiple_of_8
from tests.models.variables import random_image
from tests.references import pytorch
from tests.references.networks import calibrated
from tests.references.pytorch import assert_close, fast_jit, nchw, nhwc, torch


@pytest.fixture(scope="module")
def torchvision():
    return pytorch.library("torchvision")


@pytest.mark.parametrize("variant, published", [("large", 5_483_032), ("small", 2_542_856)])
def test_classifiers_have_the_published_number_of_parameters(variant, published):
    model = MobileNetV3Classifier(variant=variant)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    assert count_params(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)) == published


# Positions of the blocks that enter a stride, and of the last convolution: tables 1 and 2 of the paper.
@pytest.mark.parametrize("variant, places", [("large", (0, 2, 4, 7, 16)), ("small", (0, 1, 2, 4, 12))])
def test_features_and_logits_equal_torchvision(torchvision, variant, places):
    theirs = pytorch.randomised(getattr(torchvision.models, f"mobilenet_v3_{variant}")(num_classes=7, dropout=0.0))
    calibrated(theirs, random_image((2, 97, 131, 3), seed=2))
    ours = MobileNetV3Classifier(num_classes=7, variant=variant, dropout=0.0)
    variables = pytorch.converted(theirs, ours, MOBILENET_V3)
    image = random_image((2, 97, 131, 3))
    logits, inner = fast_jit(
        lambda v, x: ours.apply(v, x, capture_intermediates=lambda module, _: module.name == "backbone")
    )(variables, image)
    features = inner["intermediates"]["backbone"]["__call__"][0]
    with torch.no_grad():
        x, expected = nchw(image), []
        for i, module in enumerate(theirs.features):
            x = module(x)
            if i in places:
                expected.append(nhwc(x))
        for level, theirs_ in zip((2, 4, 8, 16, 32), expected, strict=True):
            assert_close(features[level], theirs_)
        assert_close(logits, theirs(nchw(image)))


def test_logits_and_statistics_in_training_equal_torchvision(torchvision):
    theirs = pytorch.randomised(torchvision.models.mobilenet_v3_small(num_classes=7, dropout=0.0)).train()
    ours = MobileNetV3Classifier(num_classes=7, variant="small", dropout=0.0)
    variables = pytorch.converted(theirs, ours, MOBILENET_V3)
    image = random_image((2, 97, 131, 3))
    logits, moved = fast_jit(lambda v, x: ours.apply(v, x, train=True, mutable=["batch_stats"]))(variables, image)
    with torch.no_grad():
        assert_close(logits, theirs(nchw(image)))
    assert_close(moved["batch_stats"]["backbone"]["stem"]["norm"]["mean"], theirs.features[0][1].running_mean)


@pytest.mark.parametrize("output_stride", [16, pytest.param(8, marks=pytest.mark.slow)])
def test_dilated_features(torchvision, output_stride):
    theirs = torchvision.models.mobilenet_v3_small(dilated=True).features
    if output_stride == 8:  # torchvision stops at 16: go on in the same way
        for block, dilation in [*((i, 2) for i in range(4, 9)), *((i, 4) for i in range(9, 12))]:
            depthwise = next(module for module in theirs[block].modules() if getattr(module, "groups", 1) > 1)
            depthwise.stride, depthwise.dilation = (1, 1), (dilation, dilation)
            depthwise.padding = (depthwise.kernel_size[0] // 2 * dilation,) * 2
    calibrated(pytorch.randomised(theirs), random_image((1, 65, 97, 3), seed=2))
    ours = MobileNetV3(variant="small", output_stride=output_stride)
    rules = [rule_without_backbone(rule) for rule in MOBILENET_V3]
    variables = pytorch.converted(torch.nn.ModuleDict({"features": theirs}), ours, rules)
    image = random_image((1, 65, 97, 3))
    features = fast_jit(ours.apply)(variables, image)
    with torch.no_grad():
        assert_close(features[32], nhwc(theirs(nchw(image))))
        assert_close(features[16], nhwc(theirs[:5](nchw(image))))


def rule_without_backbone(rule):
    return rule._replace(path=rule.path.removeprefix("backbone/"))


@pytest.mark.parametrize(
    "name, output_stride", [("mobilenet_v3_large", 32), ("mobilenet_v3_large", 8), ("mobilenet_v3_small", 16)]
)
def test_features_are_those_that_feature_info_announces(name, output_stride):
    model = build_backbone(name, output_stride=output_stride, width_multiplier=0.5)
    image = jax.ShapeDtypeStruct((2, 97, 131, 3), jnp.float32)
    features, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert list(features) == [2, 4, 8, 16, 32] == [info.level for info in model.feature_info]
    for info in model.feature_info:
        assert info.stride == min(info.level, output_stride)
        assert features[info.level].shape == (2, -(-97 // info.stride), -(-131 // info.stride), info.channels)


def test_channels_are_rounded_to_multiples_of_8():
    # 10 and 11 would lose more than a tenth at 8.
    assert [multiple_of_8(count) for count in (1, 8, 8.8, 10, 11, 12, 18, 20)] == [8, 8, 8, 16, 16, 16, 24, 24]


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(variant="medium"), r"variant must be in \('large', 'small'\); received 'medium'"),
        (dict(output_stride=4), r"output_stride must be in \(32, 16, 8\); received 4"),
        (dict(width_multiplier=0.0), "width_multiplier must be above 0; received 0.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        MobileNetV3(**fields)

"""DeepLab v2 against PyTorch versions written from the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule
from segjax.convert.torchvision import resnet
from segjax.models import build_model, count_params
from segjax.models.deeplab_v2 import VARIANTS, DeepLabV2
from segjax.models.output import Output
from tests.models.variables import random_image

VGG16 = (
    Rule(r"conv(\d_\d)", r"backbone/conv\1/conv"),
    Rule(r"(fc[67]_\d)", r"\1/conv"),
    Rule(r"fc8_(\d)", r"head_\1"),
)
RESNET = (*resnet(r"backbone\."), *(Rule(f"fc1_voc12_c{i}", f"head_{i + 1}") for i in range(4)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_number_of_parameters_follows_from_the_layers(variant):
    model = build_model("deeplab_v2", num_classes=21, **VARIANTS[variant])
    image = jax.ShapeDtypeStruct((1, 65, 97, 3), jnp.float32)
    count = count_params(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image))
    branches = len(VARIANTS[variant]["rates"])
    if variant.startswith("vgg16"):
        branch = (9 * 512 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 21  # figure 7b
        assert count == 14_714_688 + branches * branch  # VGG16 without its fully connected layers
    else:
        branch = (9 * 2048 + 1) * 21
        assert count == 44_549_160 - (2048 + 1) * 1000 + branches * branch  # ResNet-101 without its classifier


def test_logits_on_vgg16_equal_the_reference(rates=(2, 4, 8, 12)):
    reference = pytest.importorskip("tests.references.pytorch")
    deeplab = pytest.importorskip("tests.references.deeplab")
    module = reference.randomised(deeplab.PyramidVGG16(5, rates, width=8, hidden=16)).eval()
    model = DeepLabV2(num_classes=5, backbone="vgg16", rates=rates, width=8, fc_channels=16)
    variables = reference.converted(module, model, VGG16)
    image = random_image((2, 97, 131, 3))
    padded = reference.nchw(np.pad(np.asarray(image), ((0, 0), (0, 0), (0, 6), (0, 0))))
    theirs = deeplab.interpolate(module.scores(padded), padded.shape[2:])
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(theirs)[:, :, :131])


@pytest.mark.parametrize(
    "scales, train, depth",
    [
        ((1.0, 0.75, 0.5), False, 18),
        ((1.0, 0.5), True, 18),
        pytest.param((1.0, 0.75, 0.5), False, 101, marks=pytest.mark.slow),
    ],
)
def test_logits_on_resnet_at_several_scales_equal_the_reference(scales, train, depth):
    reference = pytest.importorskip("tests.references.pytorch")
    deeplab = pytest.importorskip("tests.references.deeplab")
    module = reference.randomised(deeplab.PyramidResNet(5, (6, 12, 18, 24), depth=depth)).train(train)
    model = DeepLabV2(num_classes=5, backbone=f"resnet{depth}", scales=scales)
    variables = reference.converted(module, model, RESNET)
    image = random_image((2, 65, 97, 3))
    theirs, each = deeplab.multi_scale(module, reference.nchw(image), scales)

    def apply(variables, image):
        return model.apply(variables, image, train=train, mutable=["batch_stats"])

    output, moved = reference.fast_jit(apply)(variables, image)
    if not train:
        reference.assert_close(output, reference.nhwc(theirs))
        return
    reference.assert_close(output.logits, reference.nhwc(theirs))
    assert len(output.auxiliary) == len(scales)
    for ours, expected in zip(output.auxiliary, each, strict=True):
        reference.assert_close(ours, reference.nhwc(expected))
    # The statistics have moved once for each scale.
    mean = moved["batch_stats"]["backbone"]["conv1"]["norm"]["mean"]
    reference.assert_close(mean, module.backbone.bn1.running_mean.numpy())


def test_several_scales_pad_to_whole_cells_at_each():
    model = DeepLabV2(num_classes=3, backbone="resnet18", width=2, scales=(1.0, 0.75, 0.5))
    image = jax.ShapeDtypeStruct((1, 40, 70, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
    output = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[0], variables, image)
    assert isinstance(output, Output) and len(output.auxiliary) == 3
    assert {logits.shape for logits in (output.logits, *output.auxiliary)} == {(1, 40, 70, 3)}
    assert jax.eval_shape(model.apply, variables, image).shape == (1, 40, 70, 3)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(backbone="xception65"), "vgg16, vgg16_bn or a ResNet; received 'xception65'"),
        (dict(rates=()), r"one or more rates >= 1; received \(\)"),
        (dict(scales=(0.5, 1.0)), r"begin with 1; received \(0.5, 1.0\)"),
        (dict(scales=(1.0, 0.6)), r"multiples of 0.25 .*; received \(1.0, 0.6\)"),
        (dict(dropout=1.0), "dropout < 1; received .*dropout=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        DeepLabV2(num_classes=2, **fields)

"""Xception-65 against timm's, which carries the DeepLab authors' weights."""

import jax
import jax.numpy as jnp
import pytest

from segjax.convert.timm import XCEPTION
from segjax.models import count_params
from segjax.models.backbones import build_backbone
from segjax.models.backbones.xception import Xception65, Xception65Classifier
from tests.models.variables import random_image

SHAPE = (2, 65, 97, 3)


def shapes_of(model, shape=SHAPE):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)


def test_classifier_has_timms_number_of_parameters():
    reference = pytest.importorskip("tests.references.pytorch")
    timm = reference.library("timm")
    with reference.torch.device("meta"):
        module = timm.create_model("xception65", num_classes=1000)
    expected = sum(parameter.numel() for parameter in module.parameters())
    assert round(expected / 1e6, 2) == 39.92  # timm's published results table
    assert count_params(shapes_of(Xception65Classifier())[1]) == expected


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_features_are_those_that_feature_info_announces(output_stride):
    model = build_backbone("xception65", output_stride=output_stride, width_multiplier=0.25)
    features, _ = shapes_of(model)
    assert list(features) == [info.level for info in model.feature_info]
    for level, stride, channels in model.feature_info:
        assert stride == min(level, output_stride)
        assert features[level].shape == (2, -(-65 // stride), -(-97 // stride), channels)
    assert [info.channels for info in Xception65().feature_info] == [128, 256, 728, 1024, 2048]  # figure 4


@pytest.mark.parametrize("output_stride, train", [(32, True), (8, False)])
def test_features_equal_timm(output_stride, train):
    reference = pytest.importorskip("tests.references.pytorch")
    timm = reference.library("timm")
    module = timm.create_model("xception65", num_classes=7, output_stride=output_stride)
    # The modules of the middle flow are alike, so one of them is enough.
    del module.blocks[4:19]
    module = reference.randomised(module).train(train)
    rules = [rule._replace(path=rule.path.removeprefix("backbone/")) for rule in XCEPTION]
    model = build_backbone("xception65", output_stride=output_stride, middle_repeats=1)
    variables = reference.converted(module, model, rules, unused=("head.",))
    image = random_image(SHAPE)
    ours = reference.fast_jit(lambda v, x: model.apply(v, x, train=train))(variables, image)

    x, theirs, level = module.stem(reference.nchw(image)), {}, 2
    for number, block in enumerate(module.blocks):
        x, tap = block.forward_with_tap(x)
        if number in (0, 1, 2, 4):  # the modules that halve the resolution: entry flow, exit flow
            theirs[level] = tap
            level *= 2
    for level, tap in theirs.items():
        # timm's features are those after the ReLU; the decoder of DeepLab v3+ reads them before it.
        reference.assert_close(jax.nn.relu(ours[level]), reference.nhwc(tap))
    reference.assert_close(ours[32], reference.nhwc(x))
    assert float(ours[4].min()) < 0


@pytest.mark.parametrize("fields", [dict(output_stride=4), dict(middle_repeats=-1), dict(width_multiplier=0.0)])
def test_wrong_fields_are_explained(fields):
    (field,) = fields
    with pytest.raises(ValueError, match=f"{field}.*received.*{field}={fields[field]}"):
        Xception65(**fields)

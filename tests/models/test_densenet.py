import copy
import re

import jax
import jax.numpy as jnp
import pytest

from segjax.convert.torchvision import DENSENET
from segjax.models import count_params
from segjax.models.backbones import build_backbone
from segjax.models.backbones.densenet import DenseNet121, DenseNet121Classifier
from tests.models.variables import random_image
from tests.references import pytorch
from tests.references.networks import calibrated
from tests.references.pytorch import assert_close, fast_jit, nchw, nhwc, torch


@pytest.fixture(scope="module")
def networks():
    """torchvision's network, ours and our variables. Narrow: what differs at the full width is the counts' alone."""
    models = pytorch.library("torchvision").models
    theirs = models.DenseNet(4, (6, 12, 24, 16), 8, num_classes=7)
    calibrated(pytorch.randomised(theirs), random_image((2, 97, 131, 3), seed=2))
    ours = DenseNet121Classifier(num_classes=7, growth=4)
    return theirs, ours, pytorch.converted(theirs, ours, DENSENET)


def test_classifier_has_the_published_number_of_parameters():
    model, image = DenseNet121Classifier(), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    assert count_params(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)) == 7_978_856


def test_features_and_logits_equal_torchvision(networks):
    theirs, ours, variables = networks
    image = random_image((2, 97, 131, 3))
    logits, inner = fast_jit(
        lambda v, x: ours.apply(v, x, capture_intermediates=lambda module, _: module.name == "backbone")
    )(variables, image)
    features = inner["intermediates"]["backbone"]["__call__"][0]
    theirs.eval()
    outputs = {}
    for name in ("relu0", *(f"transition{i}.relu" for i in (1, 2, 3)), "norm5"):
        theirs.features.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: outputs.update({name: output.relu()})
        )
    with torch.no_grad():
        assert_close(logits, theirs(nchw(image)))
    for level, expected in zip((2, 4, 8, 16, 32), outputs.values(), strict=True):
        assert_close(features[level], nhwc(expected))


def test_logits_in_training_equal_torchvision(networks):
    theirs, ours, variables = networks
    image = random_image((2, 65, 97, 3))
    logits, _ = fast_jit(lambda v, x: ours.apply(v, x, train=True, mutable=["batch_stats"]))(variables, image)
    with torch.no_grad():
        # A copy, since training moves the statistics.
        assert_close(logits, copy.deepcopy(theirs).train()(nchw(image)))


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_features_are_those_that_feature_info_announces(output_stride):
    model = build_backbone("densenet121", output_stride=output_stride)
    image = jax.ShapeDtypeStruct((2, 97, 131, 3), jnp.float32)
    features, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert list(features) == [2, 4, 8, 16, 32] == [info.level for info in model.feature_info]
    for info in model.feature_info:
        assert info.stride == min(info.level, output_stride)
        # Only the stem rounds up.
        rows, columns = (-(-49 // 2), -(-66 // 2)) if info.level > 2 else (49, 66)
        factor = max(info.stride // 4, 1)
        assert features[info.level].shape == (2, rows // factor, columns // factor, info.channels)


def test_dilated_features(networks):
    theirs, _, variables = networks
    theirs = copy.deepcopy(theirs.features).eval()
    theirs.transition2.pool = theirs.transition3.pool = torch.nn.Identity()
    for block, dilation in ((theirs.denseblock3, 2), (theirs.denseblock4, 4)):
        for layer in block.values():
            layer.conv2.dilation = layer.conv2.padding = (dilation, dilation)
    ours = DenseNet121(growth=4, output_stride=8)
    image = random_image((1, 49, 65, 3))
    backbone = {name: tree["backbone"] for name, tree in variables.items()}
    with torch.no_grad():
        assert_close(fast_jit(ours.apply)(backbone, image)[32], nhwc(theirs(nchw(image)).relu()))


def test_published_names_of_layers_are_known():
    for module in ("features.denseblock2.denselayer11.norm.1", "features.denseblock2.denselayer11.norm1"):
        (path,) = (match.expand(path) for pattern, path, *_ in DENSENET if (match := re.fullmatch(pattern, module)))
        assert path == "backbone/denseblock2_denselayer11/conv1/norm"


def test_wrong_fields_are_explained():
    with pytest.raises(ValueError, match="output_stride 32, 16 or 8 .*received output_stride=4"):
        DenseNet121(output_stride=4)

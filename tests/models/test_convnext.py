"""ConvNeXt against transformers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import convert
from segjax.convert.transformers_upernet import BACKBONES as RULES
from segjax.convert.transformers_upernet import convnext
from segjax.models import count_params
from segjax.models.backbones import build_backbone
from segjax.models.backbones.convnext import ConvNeXt
from segjax.training.state import named_leaves
from tests.models.hierarchical import STAGES, drop_path_rates, own_paths, padded_patches, shapes_of
from tests.models.variables import fast_jit, random_image

SMALL = dict(width=8, depths=(2, 1, 2, 1))
# Liu et al. 2022, table 9, has 28.6M, 50.2M and 88.6M; these are timm's results: convnext_{tiny,small,base}.fb_in1k.
PUBLISHED_PARAMETERS = {"convnext_tiny": 28_589_128, "convnext_small": 50_223_688, "convnext_base": 88_591_464}


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_published_number_of_parameters(name):
    """The classifier has one norm and a dense layer behind the last stage instead of four norms."""
    _, variables = shapes_of(build_backbone(name))
    channels = [info.channels for info in build_backbone(name).feature_info]
    classifier = 2 * channels[-1] + 1000 * (channels[-1] + 1)
    assert count_params(variables) - 2 * sum(channels) + classifier == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("size", [(64, 96), (67, 37), (5, 3)])
def test_features_equal_transformers(reference, size):
    transformers = reference.library("transformers")
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 16, 32, 64],
        depths=list(SMALL["depths"]),
        out_features=STAGES,
    )
    module = padded_patches(reference.randomised(transformers.ConvNextBackbone(config))).eval()
    model = ConvNeXt(**SMALL)
    variables = reference.converted(module, model, own_paths(convnext("")))
    image = random_image((2, *size, 3))
    features = fast_jit(model.apply)(variables, image)
    expected = module(reference.nchw(image)).feature_maps
    assert list(features) == [4, 8, 16, 32]
    for level, theirs in zip(features, expected, strict=True):
        reference.assert_close(features[level], reference.nhwc(theirs))


def test_weights_of_a_classifier_fit_but_for_the_norms_of_the_outputs(reference):
    transformers = reference.library("transformers")
    config = transformers.ConvNextConfig(hidden_sizes=[4, 8, 16, 32], depths=[1, 1, 1, 1], num_labels=3)
    module = transformers.ConvNextForImageClassification(config)
    _, variables = shapes_of(ConvNeXt(width=4, depths=(1, 1, 1, 1)))
    target = dict(named_leaves(variables))
    _, report = convert(reference.state_arrays(module), target, own_paths(RULES["convnext"]))
    assert not report.unknown and not report.mismatched and not report.unused
    assert set(report.missing) == {f"params/norm{stage}/{name}" for stage in range(1, 5) for name in ("scale", "bias")}
    assert {key.rpartition(".")[0] for key, _ in report.skipped} == {"convnext.layernorm", "classifier"}


def test_layer_scale_starts_as_published():
    variables = fast_jit(ConvNeXt(width=4, depths=(1, 1, 1, 1)).init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    scales = [leaf for path, leaf in named_leaves(variables) if path.endswith("layer_scale")]
    assert len(scales) == 4 and all((scale == np.float32(1e-6)).all() for scale in scales)


@pytest.mark.parametrize("size", [(1, 1), (3, 17), (65, 97)])
def test_features_are_those_that_feature_info_announces(size):
    model = ConvNeXt(**SMALL)
    features, _ = shapes_of(model, (2, *size, 3))
    assert list(features) == [info.level for info in model.feature_info]
    for level, stride, channels in model.feature_info:
        assert features[level].shape == (2, -(-size[0] // stride), -(-size[1] // stride), channels)


def test_stochastic_depth_rises_from_block_to_block():
    rates = drop_path_rates(ConvNeXt(drop_path=0.3, **SMALL))
    np.testing.assert_allclose(rates, np.linspace(0, 0.3, 6))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(depths=(3, 3, 9)), r"four depths >= 1; received depths=\(3, 3, 9\)"),
        (dict(width=0), "width >= 1.*width=0"),
        (dict(drop_path=1.0), "drop_path < 1.*drop_path=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(**fields)

"""Swin Transformer against transformers', and attention within windows against a loop over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import convert
from segjax.convert.transformers_upernet import BACKBONES as RULES
from segjax.convert.transformers_upernet import swin
from segjax.core.batch import ATTENTION
from segjax.models import count_params
from segjax.models.backbones import build_backbone
from segjax.models.backbones.swin import Swin
from segjax.models.layers import window_attention as layer
from segjax.models.layers.window_attention import WindowAttention
from segjax.training.state import named_leaves
from tests.models.hierarchical import STAGES, drop_path_rates, own_paths, shapes_of
from tests.models.variables import fast_jit, random_image, random_variables
from tests.references.window_attention import window_attention

SMALL = dict(width=8, depths=(2, 1, 2, 1), head_dim=4)
# Of the classifiers with 1000 classes, from timm's results: swin_{tiny,small,base}_patch4_window7_224.
PUBLISHED_PARAMETERS = {"swin_tiny": 28_288_354, "swin_small": 49_606_258, "swin_base": 87_768_224}


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


def transformers_swin(reference, window):
    transformers = reference.library("transformers")
    config = transformers.SwinConfig(
        embed_dim=8,
        depths=list(SMALL["depths"]),
        num_heads=[2, 4, 8, 16],
        window_size=window,
        out_features=STAGES,
    )
    return reference.randomised(transformers.SwinBackbone(config)).eval()


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_published_number_of_parameters(name):
    """The classifier has one norm and a dense layer behind the last stage instead of four norms."""
    _, variables = shapes_of(build_backbone(name))
    channels = [info.channels for info in build_backbone(name).feature_info]
    classifier = 2 * channels[-1] + 1000 * (channels[-1] + 1)
    assert count_params(variables) - 2 * sum(channels) + classifier == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("window, size", [(3, (64, 96)), (4, (67, 37)), (7, (33, 50)), (2, (5, 3))])
def test_features_equal_transformers(reference, window, size):
    """Windows larger than the features, and sizes that are no multiples of the patch, of two or of the window."""
    module = transformers_swin(reference, window)
    model = Swin(window=window, **SMALL)
    variables = reference.converted(module, model, own_paths(swin(r"swin\.")), unused=("swin.layernorm",))
    image = random_image((2, *size, 3))
    features = fast_jit(model.apply)(variables, image)
    expected = module(reference.nchw(image)).feature_maps
    assert list(features) == [4, 8, 16, 32]
    for level, theirs in zip(features, expected, strict=True):
        reference.assert_close(features[level], reference.nhwc(theirs))


def test_weights_of_a_classifier_fit_but_for_the_norms_of_the_outputs(reference):
    transformers = reference.library("transformers")
    config = transformers.SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], num_labels=3)
    module = transformers.SwinForImageClassification(config)
    _, variables = shapes_of(Swin(width=8, head_dim=8, depths=(1, 1, 1, 1)))
    _, report = convert(reference.state_arrays(module), dict(named_leaves(variables)), own_paths(RULES["swin"]))
    assert not report.unknown and not report.mismatched and not report.unused
    assert set(report.missing) == {f"params/norm{stage}/{name}" for stage in range(1, 5) for name in ("scale", "bias")}
    assert {key.rpartition(".")[0] for key, _ in report.skipped} == {"swin.layernorm", "classifier"}


@pytest.mark.parametrize("size", [(1, 1), (3, 17), (65, 97)])
def test_features_are_those_that_feature_info_announces(size):
    model = Swin(**SMALL)
    features, _ = shapes_of(model, (2, *size, 3))
    assert list(features) == [info.level for info in model.feature_info]
    for level, stride, channels in model.feature_info:
        assert features[level].shape == (2, -(-size[0] // stride), -(-size[1] // stride), channels)


def test_stochastic_depth_rises_from_block_to_block():
    rates = drop_path_rates(Swin(drop_path=0.3, **SMALL))
    np.testing.assert_allclose(rates, np.repeat(np.linspace(0, 0.3, 6), 2))


def test_without_attention_it_has_the_same_parameters_and_other_features():
    fields = dict(width=8, depths=(1, 1, 1, 1), head_dim=4, window=3)
    model, uniform = Swin(**fields), Swin(attention=False, **fields)
    assert jax.tree.map(jnp.shape, shapes_of(model)[1]) == jax.tree.map(jnp.shape, shapes_of(uniform)[1])
    image = random_image((1, 32, 32, 3))
    variables = random_variables(model, image.shape)
    features = [fast_jit(network.apply)(variables, image)[4] for network in (model, uniform)]
    assert jnp.abs(features[0] - features[1]).max() > 0.1


@pytest.mark.parametrize("attend", [True, False])
@pytest.mark.parametrize("window, shift, size", [(3, 0, (6, 9)), (3, 1, (6, 9)), (4, 2, (7, 5)), (5, 2, (3, 1))])
def test_attention_within_windows_equals_a_loop(window, shift, size, attend):
    model = WindowAttention(window, head_dim=3, shift=shift, attend=attend)
    x = random_image((2, *size, 6))
    variables = random_variables(model, x.shape)
    y, kept = fast_jit(lambda v, x: model.apply(v, x, mutable=[ATTENTION]))(variables, x)
    expected = [window_attention(variables["params"], image, window, 2, shift, attend) for image in np.asarray(x)]
    np.testing.assert_allclose(y, np.stack([result for result, _ in expected]), rtol=1e-5, atol=1e-5)
    weights = np.stack([found for _, found in expected])[..., : size[0], : size[1]]
    weights /= weights.sum((-2, -1), keepdims=True)
    np.testing.assert_allclose(kept[ATTENTION]["window"], weights, rtol=1e-5, atol=1e-6)


def test_gradient_of_the_shared_bias_is_finite():
    model = WindowAttention(3, head_dim=3, shift=1)
    x = random_image((2, 5, 4, 6))
    variables = random_variables(model, x.shape)
    gradient = fast_jit(jax.grad(lambda v: (model.apply(v, x) ** 2).sum()))(variables)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
    assert jnp.abs(gradient["params"]["bias_table"]).min() > 0


def test_large_maps_are_not_offered(monkeypatch):
    monkeypatch.setattr(layer, "LARGEST_MAP", 12**2 - 1)
    model = WindowAttention(2, head_dim=3)
    for width, offered in ((4, False), (2, True)):
        x = random_image((1, 3, width, 6))
        variables = random_variables(model, x.shape)
        _, kept = jax.eval_shape(lambda v, x: model.apply(v, x, mutable=[ATTENTION]), variables, x)
        assert bool(kept.get(ATTENTION)) == offered


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(depths=(2, 2, 6)), r"four depths >= 1; received depths=\(2, 2, 6\)"),
        (dict(width=100), "head_dim that divides width.*received width=100, head_dim=32"),
        (dict(window=0), "window >= 1.*window=0"),
        (dict(drop_path=1.0), "drop_path < 1.*drop_path=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        Swin(**fields)

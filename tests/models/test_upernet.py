"""UPerNet on Swin Transformer and on ConvNeXt against transformers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import convert
from segjax.convert.read import read_weights
from segjax.convert.transformers_upernet import UPERNET
from segjax.models import build_model, count_params
from segjax.models.upernet import VARIANTS
from segjax.training.state import named_leaves
from tests.models.hierarchical import STAGES, padded_patches, shapes_of
from tests.models.variables import fast_jit, random_image

SMALL = dict(channels=16, auxiliary_channels=8, depths=(1, 2, 1, 1), dropout=0.0, drop_path=0.0)
SMALL_BACKBONES = {
    "swin": dict(backbone="swin_tiny", width=8, head_dim=4, window=3, **SMALL),
    "convnext": dict(backbone="convnext_tiny", width=4, **SMALL),
}


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


def backbone_config(transformers, kind, small=True):
    if kind == "swin":
        sizes = dict(embed_dim=8, depths=[1, 2, 1, 1], num_heads=[2, 4, 8, 16], window_size=3) if small else {}
        return transformers.SwinConfig(out_features=STAGES, drop_path_rate=0.0, **sizes)
    sizes = dict(hidden_sizes=[4, 8, 16, 32], depths=[1, 2, 1, 1]) if small else dict(hidden_sizes=[96, 192, 384, 768])
    return transformers.ConvNextConfig(out_features=STAGES, **sizes)


def transformers_network(reference, kind):
    """With random weights and without the norm of Swin's classifier, which nothing reads."""
    transformers = reference.library("transformers")
    config = transformers.UperNetConfig(
        backbone_config=backbone_config(transformers, kind), hidden_size=16, auxiliary_channels=8, num_labels=5
    )
    module = transformers.UperNetForSemanticSegmentation(config)
    if kind == "swin":
        module.backbone.swin.layernorm = reference.torch.nn.Identity()
    return padded_patches(reference.randomised(module))


@pytest.mark.parametrize("kind", SMALL_BACKBONES)
@pytest.mark.parametrize("size", [(64, 96), (65, 37)])
def test_logits_equal_transformers(reference, kind, size):
    module = transformers_network(reference, kind).eval()
    model = build_model("upernet", num_classes=5, **SMALL_BACKBONES[kind])
    variables = reference.converted(module, model, UPERNET)
    image = random_image((2, *size, 3))
    ours = fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image)).logits))


@pytest.mark.parametrize("kind", ["swin", pytest.param("convnext", marks=pytest.mark.slow)])
def test_training_logits_gradients_and_statistics_equal_transformers(reference, kind):
    from tests.references.gradients import assert_same_gradients, mostly_active

    torch = reference.torch
    module = mostly_active(transformers_network(reference, kind)).train()
    model = build_model("upernet", num_classes=5, **SMALL_BACKBONES[kind])
    variables = reference.converted(module, model, UPERNET)
    image = random_image((2, 33, 41, 3))
    label = np.random.default_rng(0).integers(0, 5, image.shape[:3])

    def cross_entropy(logits):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1))

    def loss(params):
        output, state = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return cross_entropy(output.logits) + 0.4 * cross_entropy(output.auxiliary[0]), (output, state)

    gradient, (output, state) = fast_jit(jax.grad(loss, has_aux=True))(variables["params"])
    features = module.backbone(reference.nchw(image)).feature_maps
    theirs = [head(features) for head in (module.decode_head, module.auxiliary_head)]
    theirs = [torch.nn.functional.interpolate(y, image.shape[1:3], mode="bilinear") for y in theirs]
    reference.assert_close(output.logits, reference.nhwc(theirs[0]))
    reference.assert_close(output.auxiliary[0], reference.nhwc(theirs[1]))
    losses = [torch.nn.functional.cross_entropy(logits, torch.from_numpy(label)) for logits in theirs]
    (losses[0] + 0.4 * losses[1]).backward()
    assert_same_gradients({"params": gradient}, module, UPERNET)

    means = {path: leaf for path, leaf in named_leaves(state) if path.endswith("mean")}
    expected, _ = convert(reference.state_arrays(module), means, UPERNET)
    assert set(expected) == set(means)
    for path, mean in expected.items():
        reference.assert_close(means[path], mean)


@pytest.mark.parametrize("kind", SMALL_BACKBONES)
def test_number_of_parameters_is_that_of_the_published_networks(reference, kind):
    """60M in table 3 of Liu et al. 2021 and table 4 of Liu et al. 2022; exactly, what transformers makes."""
    transformers = reference.library("transformers")
    config = transformers.UperNetConfig(
        backbone_config=backbone_config(transformers, kind, small=False), num_labels=150
    )
    with reference.torch.device("meta"):
        module = transformers.UperNetForSemanticSegmentation(config)
    unused = 2 * 768 if kind == "swin" else 0  # the norm of Swin's classifier
    theirs = sum(parameter.numel() for parameter in module.parameters()) - unused
    ours = count_params(shapes_of(build_model("upernet", num_classes=150, **VARIANTS[f"{kind}-tiny"]))[1])
    assert ours == theirs and round(ours / 1e6) == 60


@pytest.mark.parametrize("kind", SMALL_BACKBONES)
def test_names_of_published_files(reference, kind, tmp_path):
    """transformers writes files under the names that openmmlab's have; some buffers are in those alone."""
    module = transformers_network(reference, kind)
    module.save_pretrained(tmp_path)
    arrays, _ = read_weights(tmp_path / "model.safetensors")
    arrays = dict(arrays)
    if kind == "swin":
        block = "backbone.encoder.layers.1.blocks.1.attention.self"
        assert f"{block}.relative_position_bias_table" in arrays and f"{block}.query.weight" in arrays
        arrays[f"{block}.relative_position_index"] = np.zeros((9, 9), int)
    else:
        assert "backbone.encoder.stages.1.layers.1.layer_scale_parameter" in arrays
    _, shapes = shapes_of(build_model("upernet", num_classes=5, **SMALL_BACKBONES[kind]))
    target = dict(named_leaves(shapes))
    found, report = convert(arrays, target, UPERNET)
    assert set(found) == set(target)
    assert not report.unknown and not report.mismatched and not report.unused
    assert {key.rpartition(".")[2] for key, _ in report.skipped} <= {"num_batches_tracked", "relative_position_index"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant):
    output, _ = shapes_of(build_model("upernet", num_classes=19, **VARIANTS[variant]), train=True)
    assert output.logits.shape == output.auxiliary[0].shape == (1, 64, 64, 19)


@pytest.mark.parametrize("size", [(1, 1), (3, 17)])
@pytest.mark.parametrize("fields", [*SMALL_BACKBONES.values(), dict(backbone="resnet18", width=4, channels=8)])
def test_tiny_images(fields, size):
    logits, _ = shapes_of(build_model("upernet", num_classes=3, **fields), (2, *size, 3))
    assert logits.shape == (2, *size, 3) and logits.dtype == jnp.float32


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(backbone="vgg16"), "must be a Swin, ConvNeXt or ResNet among BACKBONES; received 'vgg16'"),
        (
            dict(backbone="convnext_tiny", window=7),
            "convnext_tiny has width, depths, drop_path to be set; received window",
        ),
        (dict(bins=()), r"bins >= 1, .*received bins=\(\)"),
        (dict(channels=0), "channels and auxiliary_channels >= 1 .*channels=0"),
        (dict(dropout=1.0), "dropout < 1; received .*dropout=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        build_model("upernet", num_classes=5, **fields)

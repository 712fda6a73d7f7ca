"""U-Net on ResNet against segmentation_models.pytorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.smp import UNET_RESNET
from segjax.core.batch import ATTENTION
from segjax.models import build_model, count_params
from segjax.models.unet_resnet import VARIANTS
from tests.models.variables import random_image


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


UNUSED = ("decoder.blocks.4.attention1",)
"""smp makes it and does not use it, since the last level has no skip connection."""


def smp_network(reference, backbone, attention=None):
    smp = reference.library("segmentation_models_pytorch")
    module = smp.Unet(backbone, encoder_weights=None, classes=5, decoder_attention_type=attention)
    return reference.randomised(module)


@pytest.mark.parametrize("backbone, published", [("resnet34", 24_436_369), ("resnet50", 32_521_105)])
def test_number_of_parameters_is_that_of_smp_with_one_class(backbone, published):
    model = build_model("unet_resnet", num_classes=1, **VARIANTS[backbone])
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    assert count_params(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)) == published


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "backbone, train",
    [("resnet34", True), ("resnet50", False)]
    + [pytest.param(backbone, train, marks=SLOW) for backbone, train in (("resnet34", False), ("resnet50", True))],
)
def test_logits_equal_smp(reference, backbone, train):
    module = smp_network(reference, backbone).train(train)
    model = build_model("unet_resnet", num_classes=5, backbone=backbone)
    variables = reference.converted(module, model, UNET_RESNET)
    image = random_image((2, 64, 96, 3))
    ours = reference.fast_jit(lambda v, x: model.apply(v, x, train=train))(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))))


@pytest.mark.parametrize("train", [True, pytest.param(False, marks=SLOW)])
def test_logits_with_scse_equal_smp(reference, train):
    module = smp_network(reference, "resnet18", "scse").train(train)
    model = build_model("unet_resnet", num_classes=5, backbone="resnet18", attention="scse")
    variables = reference.converted(module, model, UNET_RESNET, unused=UNUSED)
    used = (p.numel() for name, p in module.named_parameters() if not name.startswith(UNUSED))
    assert count_params(variables) == sum(used)
    image = random_image((2, 64, 96, 3))
    run = reference.fast_jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats", ATTENTION]))
    ours, kept = run(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))))
    shapes = {name: found["weights"].shape for name, found in kept[ATTENTION].items()}
    assert shapes == {
        f"up{level}_attention{i}": (2, 64 // level, 96 // level)
        for level in (16, 8, 4, 2, 1)
        for i in (1, 2)
        if (level, i) != (1, 1)
    }


def test_odd_sizes_are_padded_with_zeros_and_cropped(reference):
    module = smp_network(reference, "resnet18").eval()
    model = build_model("unet_resnet", num_classes=5, backbone="resnet18")
    variables = reference.converted(module, model, UNET_RESNET)
    image = random_image((2, 65, 93, 3))
    whole = np.zeros((2, 96, 96, 3), np.float32)
    whole[:, :65, :93] = image
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(whole)))[:, :65, :93])


def test_gradients_equal_smp(reference):
    from tests.references.gradients import assert_same_gradients, mostly_active

    torch = reference.torch
    module = mostly_active(smp_network(reference, "resnet34")).train()
    model = build_model("unet_resnet", num_classes=5, backbone="resnet34")
    variables = reference.converted(module, model, UNET_RESNET)
    image = random_image((2, 64, 64, 3))
    label = np.random.default_rng(0).integers(0, 5, image.shape[:3])

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1))

    gradient = reference.fast_jit(jax.grad(loss))(variables["params"])
    torch.nn.functional.cross_entropy(module(reference.nchw(image)), torch.from_numpy(label)).backward()
    assert_same_gradients({"params": gradient}, module, UNET_RESNET)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(backbone="vgg16"), "backbone must be a ResNet among BACKBONES; received 'vgg16'"),
        (dict(decoder_channels=(8, 4)), r"five decoder_channels >= 1.*received decoder_channels=\(8, 4\)"),
        (dict(width=0), "width >= 1; received .*width=0"),
        (dict(attention="cbam"), r"attention must be in \('none', 'scse'\); received 'cbam'"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        build_model("unet_resnet", num_classes=5, **fields)

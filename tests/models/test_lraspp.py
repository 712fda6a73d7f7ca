import copy

import jax
import jax.numpy as jnp
import pytest

from segjax.convert.torchvision import LRASPP as RULES
from segjax.models import count_params
from segjax.models.lraspp import LRASPP
from tests.models.variables import random_image
from tests.references import pytorch
from tests.references.networks import assert_gradients_close, calibrated
from tests.references.pytorch import assert_close, fast_jit, nchw, nhwc, torch


@pytest.fixture(scope="module")
def networks():
    """torchvision's network, ours and our variables."""
    segmentation = pytorch.library("torchvision").models.segmentation
    theirs = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=7)
    calibrated(pytorch.randomised(theirs), random_image((2, 97, 131, 3), seed=2))
    ours = LRASPP(num_classes=7)
    return theirs, ours, pytorch.converted(theirs, ours, RULES)


def test_it_has_the_published_number_of_parameters():
    model, image = LRASPP(num_classes=21), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    assert count_params(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)) == 3_221_538


def test_logits_equal_torchvision_at_an_odd_size(networks):
    theirs, ours, variables = networks
    image = random_image((2, 97, 131, 3))
    with torch.no_grad():
        expected = nhwc(theirs.eval()(nchw(image))["out"])
    assert_close(fast_jit(ours.apply)(variables, image), expected)


@pytest.mark.slow  # compiling the gradient; last run on 2026-11-27
def test_training_logits_and_gradients_equal_torchvision(networks):
    theirs, ours, variables = networks
    image, weights = random_image((2, 65, 97, 3)), random_image((2, 65, 97, 7), seed=3)

    def loss(params):
        logits, _ = ours.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return (logits * weights).sum(), logits

    gradients, logits = fast_jit(jax.grad(loss, has_aux=True))(variables["params"])
    theirs = copy.deepcopy(theirs).train()  # training moves the statistics
    out = theirs(nchw(image))["out"]
    (out * nchw(weights)).sum().backward()
    assert_close(logits, nhwc(out))
    assert_gradients_close(gradients, theirs, RULES)


@pytest.mark.parametrize("fields", [dict(backbone="mobilenet_v3_big"), dict(output_stride=4), dict(filters=0)])
def test_wrong_fields_are_explained(fields):
    with pytest.raises(ValueError, match="LRASPP needs a backbone of .*received .*" + str(*fields.values())):
        LRASPP(num_classes=2, **fields)


def test_backbones_without_an_output_stride_are_refused():
    with pytest.raises(ValueError, match="needs a backbone of densenet121, .*received backbone='swin_tiny'"):
        LRASPP(num_classes=3, backbone="swin_tiny")


@pytest.mark.parametrize("backbone", ["vgg16", "densenet121"])
def test_images_too_small_for_the_backbone_are_refused(backbone):
    model = LRASPP(num_classes=3, backbone=backbone)
    with pytest.raises(ValueError, match=r"pixels a side or more; received \(1, 12, 64, 3\)"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 12, 64, 3))))

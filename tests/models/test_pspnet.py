"""PSPNet against a reference in PyTorch, and its form "smp" against segmentation_models.pytorch."""

import jax
import jax.numpy as jnp
import pytest

from segjax.convert.mapping import Rule
from segjax.convert.smp import PSPNET
from segjax.convert.torchvision import fcn_head, resnet
from segjax.models import build_model
from segjax.models.pspnet import VARIANTS
from tests.models.variables import fast_jit, random_image, random_variables

REFERENCE_RULES = (
    *resnet(""),
    Rule(r"pyramid\.(\d)\.1", r"pyramid\1/conv"),
    Rule(r"pyramid\.(\d)\.2", r"pyramid\1/norm"),
    *fcn_head("classifier", "head"),
    *fcn_head("aux_classifier", "auxiliary_head"),
)
"""Names of tests/references/pspnet.py."""


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


def test_logits_equal_the_reference(reference):
    from tests.references.pspnet import PSPNet

    module = reference.randomised(PSPNet(5)).eval()
    model = build_model("pspnet", num_classes=5, **VARIANTS["resnet50"])
    variables = reference.converted(module, model, REFERENCE_RULES)
    image = random_image((2, 65, 97, 3))
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))[0]))


def test_training_logits_equal_the_reference(reference):
    from tests.references.gradients import mostly_active
    from tests.references.pspnet import PSPNet

    module = mostly_active(reference.randomised(PSPNet(5))).train()
    model = build_model("pspnet", num_classes=5, dropout=0.0, **VARIANTS["resnet50"])
    variables = reference.converted(module, model, REFERENCE_RULES)
    image = random_image((2, 65, 97, 3))
    run = reference.fast_jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[0])
    ours = run(variables, image)
    logits, auxiliary = module(reference.nchw(image))
    reference.assert_close(ours.auxiliary[0], reference.nhwc(auxiliary))
    reference.assert_close(ours.logits, reference.nhwc(logits))


@pytest.mark.parametrize(
    "backbone, train", [("resnet34", True), pytest.param("resnet50", False, marks=pytest.mark.slow)]
)
def test_form_smp_equals_smp(reference, backbone, train):
    smp = reference.library("segmentation_models_pytorch")
    module = smp.PSPNet(backbone, encoder_weights=None, classes=5, psp_out_channels=48, psp_dropout=0.0)
    module = reference.randomised(module).train(train)
    fields = {**VARIANTS["smp"], "backbone": backbone, "channels": 48, "dropout": 0.0}
    model = build_model("pspnet", num_classes=5, **fields)
    # The encoder ends after layer2; smp keeps the rest among its weights.
    variables = reference.converted(module, model, PSPNET, unused=("encoder.layer3", "encoder.layer4"))
    image = random_image((2, 64, 96, 3))
    ours = reference.fast_jit(lambda v, x: model.apply(v, x, train=train))(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))))


@pytest.mark.parametrize("depth", [pytest.param(4, marks=pytest.mark.slow), 5])
def test_form_smp_with_deeper_encoders(reference, depth):
    smp = reference.library("segmentation_models_pytorch")
    module = smp.PSPNet("resnet18", encoder_weights=None, encoder_depth=depth, classes=5, upsampling=2**depth)
    module = reference.randomised(module).eval()
    fields = {**VARIANTS["smp"], "backbone": "resnet18", "deepest": 2**depth, "output_stride": 32}
    model = build_model("pspnet", num_classes=5, **fields)
    variables = reference.converted(module, model, PSPNET, unused=("encoder.layer4",) if depth == 4 else ())
    image = random_image((2, 64, 96, 3))
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))))


@pytest.mark.parametrize("form, padded", [("paper", (41, 49)), pytest.param("smp", (40, 48), marks=pytest.mark.slow)])
def test_other_sizes_are_padded_with_zeros_and_cropped(form, padded):
    fields = dict(backbone="resnet18", form=form, width=4, channels=8)
    model = build_model("pspnet", num_classes=3, **fields)
    image = random_image((1, 35, 48, 3))
    variables = random_variables(model, image.shape)
    whole = jnp.zeros((1, *padded, 3)).at[:, :35, :48].set(image)
    apply = fast_jit(model.apply)
    assert jnp.array_equal(apply(variables, image), apply(variables, whole)[:, :35, :48])


@pytest.mark.parametrize("size", [(1, 1), (3, 17)])
def test_tiny_images(size):
    model = build_model("pspnet", num_classes=3, backbone="resnet18", width=4)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert logits.shape == (2, *size, 3)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(backbone="vgg16"), "backbone must be a ResNet among BACKBONES; received 'vgg16'"),
        (dict(form="ours"), r"form must be in \('paper', 'smp'\); received 'ours'"),
        (dict(output_stride=4), r"output_stride must be in \(8, 16, 32\); received 4"),
        (dict(deepest=8), "auxiliary head needs deepest=32; received deepest=8"),
        (dict(bins=(0, 1)), r"bins >= 1, .*received bins=\(0, 1\)"),
        (dict(bins=()), r"bins >= 1, .*received bins=\(\)"),
        (dict(dropout=1.0), "dropout < 1; received .*dropout=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        build_model("pspnet", num_classes=5, **fields)

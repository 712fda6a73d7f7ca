"""DeepLab v3+ against segmentation_models.pytorch and against a PyTorch version written from the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule
from segjax.convert.smp import DEEPLAB_V3PLUS
from segjax.convert.torchvision import resnet
from segjax.models import build_model, count_params
from segjax.models.deeplab_v3plus import VARIANTS, DeepLabV3Plus
from tests.models.variables import random_image


def conv_bn_relu(pattern, path):
    return Rule(pattern + r"\.0", path + "/conv"), Rule(pattern + r"\.1", path + "/norm")


PAPER = (
    *resnet(r"backbone\."),
    *conv_bn_relu("aspp0", "aspp/branch_0"),
    *conv_bn_relu("image_pooling", "aspp/pooling"),
    *conv_bn_relu("concat_projection", "aspp/project"),
    *conv_bn_relu("feature_projection", "skip"),
    *(rule for i in range(3) for rule in conv_bn_relu(rf"aspp\.{i}\.0", f"aspp/branch_{i + 1}/depthwise")),
    *(rule for i in range(3) for rule in conv_bn_relu(rf"aspp\.{i}\.1", f"aspp/branch_{i + 1}/pointwise")),
    *conv_bn_relu(r"decoder\.(\d)\.0", r"decoder_\1/depthwise"),
    *conv_bn_relu(r"decoder\.(\d)\.1", r"decoder_\1/pointwise"),
    Rule("logits", "head"),
)


def shapes_of(model, shape=(2, 65, 97, 3)):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)


def test_xception_has_the_published_number_of_parameters():
    # bonlime/keras-deeplab-v3-plus, a port of the authors' TensorFlow network, prints 41,258,213 "parameters" with 21
    # classes: Keras counts running statistics too.
    model = build_model("deeplab_v3plus", num_classes=21, **VARIANTS["xception65-os16"])
    variables = shapes_of(model)
    statistics = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))
    assert count_params(variables) + statistics == 41_258_213


def smp_pair(backbone, output_stride=16):
    reference = pytest.importorskip("tests.references.pytorch")
    smp = reference.library("segmentation_models_pytorch")
    module = smp.DeepLabV3Plus(
        backbone, encoder_weights=None, encoder_output_stride=output_stride, classes=5, decoder_aspp_dropout=0.0
    )
    module = reference.randomised(module)
    fields = {**VARIANTS["smp-resnet50"], "backbone": backbone, "output_stride": output_stride, "dropout": 0.0}
    model = DeepLabV3Plus(num_classes=5, **fields)
    return reference, module, model, reference.converted(module, model, DEEPLAB_V3PLUS)


def test_smps_weights_on_mobilenet_fit(backbone="mobilenet_v2"):
    _, module, _, variables = smp_pair(backbone)
    assert count_params(variables) == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("backbone, output_stride", [("resnet50", 8), ("resnet18", 16)])
def test_logits_equal_smp(backbone, output_stride):
    reference, module, model, variables = smp_pair(backbone, output_stride)
    # smp takes sides that are multiples of 8 or 16; others are padded with zeros here.
    image = random_image((2, 64, 93, 3))
    padded = np.pad(np.asarray(image), ((0, 0), (0, 0), (0, 3), (0, 0)))
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module.eval()(reference.nchw(padded)))[:, :, :93])


def test_training_logits_and_gradients_equal_smp():
    reference, module, model, _ = smp_pair("resnet18")
    gradients = pytest.importorskip("tests.references.gradients")
    variables = reference.converted(gradients.mostly_active(module), model, DEEPLAB_V3PLUS)
    # The pooled branch is normalised over one number an image, so the images must differ in contrast.
    image = random_image((8, 64, 64, 3)) * jnp.linspace(0.5, 2, 8)[:, None, None, None]
    weights = random_image((8, 64, 64, 5), seed=2)

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return (logits * weights).mean(), logits

    ours, logits = reference.fast_jit(jax.grad(loss, has_aux=True))(variables["params"])
    # In float64: PyTorch's own float32 logits and gradients differ from these as ours do.
    module = module.double().train()
    theirs = module(reference.nchw(image).double())
    (theirs * reference.nchw(weights).double()).mean().backward()
    reference.assert_close(logits, reference.nhwc(theirs))
    gradients.assert_same_gradients({"params": ours}, module, DEEPLAB_V3PLUS)


def test_the_papers_form_equals_the_reference():
    reference = pytest.importorskip("tests.references.pytorch")
    deeplab = pytest.importorskip("tests.references.deeplab")
    module = reference.randomised(deeplab.V3Plus(5, features=32)).eval()
    model = DeepLabV3Plus(num_classes=5, backbone="resnet18", features=32)
    variables = reference.converted(module, model, PAPER)
    image = random_image((2, 97, 108, 3))
    padded = np.pad(np.asarray(image), ((0, 0), (0, 0), (0, 5), (0, 0)))
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(padded)))[:, :, :108])


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_fields_of_the_model(variant):
    model = build_model("deeplab_v3plus", num_classes=2, **{**VARIANTS[variant], "width": 8})
    logits = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 33, 40, 3)))
    assert logits.shape == (1, 33, 40, 2) and logits.dtype == jnp.float32


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(output_stride=32), r"output_stride must be in \(8, 16\); received 32"),
        (dict(rates=(0,)), r"one or more rates >= 1; received \(0,\)"),
        (dict(multi_grid=(1, 2, 4)), "multi_grid needs a ResNet.*'xception65'"),
        (dict(decoder_convs=0), "decoder_convs >= 1 .*received.*decoder_convs=0"),
        (dict(dropout=1.0), "dropout < 1; received.*dropout=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        DeepLabV3Plus(num_classes=2, **fields)

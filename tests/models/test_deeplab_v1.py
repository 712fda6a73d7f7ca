"""DeepLab v1 against a PyTorch version of the authors' Caffe net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule
from segjax.models import build_model, count_params
from segjax.models.deeplab_v1 import VARIANTS, DeepLabV1
from tests.models.variables import random_image, random_variables

CAFFE = (
    Rule(r"conv(\d_\d)", r"backbone/conv\1/conv"),
    Rule(r"(fc[67])", r"\1/conv"),
    Rule(r"fc8", "head"),
)
BRANCHES = (Rule(r"(data|pool\d)_(conv|fc)", r"\1_\2/conv"), Rule(r"(data|pool\d)_ms", r"\1_head"))


@pytest.mark.parametrize(
    "variant, published", [("7x7", 134.3), ("4x4-stride-4", 65.1), ("4x4-stride-8", 65.1), ("largefov", 20.5)]
)
def test_number_of_parameters_is_that_of_table_2(variant, published):
    model = build_model("deeplab_v1", num_classes=21, **VARIANTS[variant])
    image = jax.ShapeDtypeStruct((1, 65, 97, 3), jnp.float32)
    count = count_params(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image))
    assert round(count / 1e6, 1) == published


@pytest.fixture(scope="module")
def pair():
    reference = pytest.importorskip("tests.references.pytorch")
    deeplab = pytest.importorskip("tests.references.deeplab")
    module = reference.randomised(deeplab.LargeFOV(5, width=8, hidden=32)).eval()
    model = DeepLabV1(num_classes=5, width=8, fc_channels=32, dropout=0.0)
    return reference, module, model, reference.converted(module, model, CAFFE)


def test_logits_equal_the_reference(pair):
    reference, module, model, variables = pair
    image = random_image((2, 129, 97, 3))
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))))


@pytest.fixture(scope="module")
def msc():
    reference = pytest.importorskip("tests.references.pytorch")
    deeplab = pytest.importorskip("tests.references.deeplab")
    module = reference.randomised(deeplab.MScLargeFOV(5, width=8, hidden=32, branch=12)).eval()
    model = DeepLabV1(num_classes=5, width=8, fc_channels=32, dropout=0.0, msc_channels=12)
    return reference, module, model, reference.converted(module, model, (*CAFFE, *BRANCHES))


def test_logits_with_features_of_several_layers_equal_the_reference(msc):
    reference, module, model, variables = msc
    image = random_image((2, 97, 65, 3))
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))))


def test_features_of_several_layers_widen_what_the_scores_see_by_640_channels():
    with_branches = DeepLabV1(num_classes=21, msc_channels=128)
    image = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32)
    params = jax.eval_shape(lambda x: with_branches.init(jax.random.key(0), x), image)["params"]
    heads = [leaf["kernel"].shape for name, leaf in params.items() if name.endswith("_head")]
    assert sum(shape[2] for shape in heads) == 640 and {shape[3] for shape in heads} == {21}


def test_other_sizes_are_padded_with_zeros_and_cropped(pair):
    reference, module, model, variables = pair
    image = random_image((2, 97, 131, 3))
    padded = np.pad(np.asarray(image), ((0, 0), (0, 0), (0, 6), (0, 0)))
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(padded)))[:, :, :131])


def test_gradients_equal_the_reference(pair):
    reference, module, model, variables = pair
    image = random_image((2, 65, 73, 3))
    weights = random_image((2, 65, 73, 5), seed=2)

    def loss(params):
        return (model.apply({"params": params}, image, train=True) * weights).mean()

    ours = reference.fast_jit(jax.grad(loss))(variables["params"])
    module.zero_grad()
    (module(reference.nchw(image)) * reference.nchw(weights)).mean().backward()
    for path in (("conv1_1", ours["backbone"]["conv1_1"]["conv"]), ("fc6", ours["fc6"]["conv"]), ("fc8", ours["head"])):
        theirs = getattr(module, path[0])
        reference.assert_close(path[1]["kernel"], theirs.weight.grad.numpy().transpose(2, 3, 1, 0))
        reference.assert_close(path[1]["bias"], theirs.bias.grad.numpy())


def test_one_pixel_is_enough():
    model = DeepLabV1(num_classes=3, width=1, fc_channels=2)
    variables = random_variables(model, (1, 1, 1, 3))
    assert jax.eval_shape(model.apply, variables, jnp.zeros((1, 1, 1, 3))).shape == (1, 1, 1, 3)


@pytest.mark.parametrize(
    "fields", [dict(fc6_kernel=0), dict(fc6_dilation=0), dict(dropout=1.0), dict(width=0), dict(msc_channels=-1)]
)
def test_wrong_fields_are_refused(fields):
    (field,) = fields
    with pytest.raises(ValueError, match=f"{field}.*received.*{field}={fields[field]}"):
        DeepLabV1(num_classes=2, **fields)


def test_an_even_kernel_needs_an_even_dilation():
    with pytest.raises(ValueError, match="so that fc6 has a centre; received fc6_kernel=4, fc6_dilation=3"):
        DeepLabV1(num_classes=2, fc6_kernel=4, fc6_dilation=3)

"""SegNet and its unpooling against PyTorch, NumPy and the papers' parameter counts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule
from segjax.models import build_model, count_params
from segjax.models.layers.unpool import max_pool_with_places, max_unpool
from segjax.models.segnet import DROPOUT_AT, VARIANTS, SegNet
from tests.models.variables import random_image, random_variables
from tests.references.pytorch import assert_close, converted, fast_jit, nchw, nhwc, randomised, torch
from tests.references.segnet import SegNet as ReferenceSegNet
from tests.references.segnet import SegNetBasic as ReferenceSegNetBasic

RULES = (Rule(r"(\w+)\.(conv|norm)", r"\1/\2"), Rule("head", "head"))


# Pooling and unpooling


def ties(shape, seed=0):
    """Small integers: most windows hold their maximum twice or more."""
    return np.random.default_rng(seed).integers(-2, 2, shape).astype(np.float32)


def loops(x):
    """(maximum, place, unpooled maximum) window by window; the last may hang over the edge."""
    count, height, width, channels = x.shape
    value = np.zeros((count, -(-height // 2), -(-width // 2), channels), x.dtype)
    place = np.zeros(value.shape, np.uint8)
    unpooled = np.zeros(x.shape, x.dtype)
    for n, i, j, c in np.ndindex(value.shape):
        best = -np.inf
        for k, (a, b) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            y, z = 2 * i + a, 2 * j + b
            if y < height and z < width and x[n, y, z, c] > best:
                best, place[n, i, j, c], at = x[n, y, z, c], k, (n, y, z, c)
        value[n, i, j, c] = unpooled[at] = best
    return value, place, unpooled


@pytest.mark.parametrize("height, width", [(6, 4), (5, 7), (1, 2), (1, 1)])
def test_pooling_and_unpooling_equal_loops(height, width):
    x = ties((2, height, width, 3))

    @fast_jit
    def ours(x):
        value, place = max_pool_with_places(x, "CEIL")
        return value, place, max_unpool(value, place, (height, width))

    jax.tree.map(np.testing.assert_array_equal, ours(x), loops(x))


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (5, 4), (3, 3)])
@pytest.mark.parametrize("padding", ["VALID", "CEIL"])
def test_pooling_unpooling_and_their_gradients_equal_pytorch(size, padding):
    x, weight = ties((2, *size, 3)), random_image((2, *size, 3))
    theirs = nchw(x).requires_grad_()
    value, index = torch.nn.functional.max_pool2d(theirs, 2, 2, ceil_mode=padding == "CEIL", return_indices=True)
    factor = nchw(random_image((2, *value.shape[2:], 3), seed=2))
    unpooled = torch.nn.functional.max_unpool2d(value * factor, index, 2, 2, output_size=size)
    (unpooled * nchw(weight)).sum().backward()

    def ours(x):
        value, place = max_pool_with_places(x, padding)
        unpooled = max_unpool(value * nhwc(factor), place, size)
        return (unpooled * weight).sum(), (value, unpooled, place)

    (_, (our_value, our_unpooled, place)), gradient = fast_jit(jax.value_and_grad(ours, has_aux=True))(jnp.asarray(x))
    np.testing.assert_array_equal(our_value, nhwc(value))
    np.testing.assert_array_equal(our_unpooled, nhwc(unpooled))
    np.testing.assert_allclose(gradient, nhwc(theirs.grad), rtol=1e-6)
    rows, columns = np.divmod(nhwc(index), size[1])
    np.testing.assert_array_equal(place, 2 * (rows % 2) + columns % 2)


def test_a_nan_stays_and_bfloat16_is_kept():
    for k in range(4):
        x = jnp.zeros((1, 2, 2, 1)).at[0, k // 2, k % 2, 0].set(jnp.nan)
        value, place = max_pool_with_places(x)
        assert jnp.isnan(value).all() and place.item() == k
    value, place = max_pool_with_places(jnp.ones((1, 2, 2, 1), jnp.bfloat16))
    assert max_unpool(value, place, (2, 2)).dtype == value.dtype == jnp.bfloat16 and place.dtype == jnp.uint8


def test_wrong_sizes_and_paddings_are_explained():
    value, place = max_pool_with_places(jnp.zeros((1, 6, 6, 1)))
    with pytest.raises(ValueError, match=r"2x2 pooling makes \(3, 3\) of; received \(8, 6\)"):
        max_unpool(value, place, (8, 6))
    with pytest.raises(ValueError, match="'VALID' or 'CEIL'; received 'SAME'"):
        max_pool_with_places(jnp.zeros((1, 6, 6, 1)), "SAME")


# The networks


@pytest.fixture(scope="module", params=["basic", "vgg16"])
def pair(request):
    reference = {"basic": ReferenceSegNetBasic, "vgg16": ReferenceSegNet}[request.param]
    theirs = randomised(reference(5, width=8))
    ours = build_model("segnet", num_classes=5, form=request.param, width=8)
    return theirs, ours, converted(theirs, ours, RULES)


@pytest.mark.parametrize("size", [(64, 96), (97, 131)])
def test_logits_equal_the_reference_in_evaluation(pair, size):
    theirs, ours, variables = pair
    image = random_image((2, *size, 3))
    with torch.no_grad():
        expected = nhwc(theirs.eval()(nchw(image)))
    assert_close(fast_jit(ours.apply)(variables, image), expected)


def test_logits_equal_the_reference_in_training(pair):
    theirs, ours, variables = pair
    image = random_image((2, 65, 97, 3))
    with torch.no_grad():
        expected = nhwc(theirs.train()(nchw(image)))
    logits, _ = fast_jit(lambda v, x: ours.apply(v, x, train=True, mutable=["batch_stats"]))(variables, image)
    assert_close(logits, expected)


def test_gradients_equal_the_reference():
    theirs = randomised(ReferenceSegNetBasic(5, width=8)).train()
    ours = SegNet(5, form="basic", width=8)
    variables = converted(theirs, ours, RULES)
    image, weight = random_image((2, 33, 49, 3)), random_image((2, 33, 49, 5), seed=2)
    (theirs(nchw(image)) * nchw(weight)).mean().backward()

    @fast_jit
    @jax.grad
    def gradient(params):
        logits, _ = ours.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return (logits * weight).mean()

    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    expected = converted(theirs, ours, RULES)["params"]
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * largest), gradient(variables["params"]), expected
    )


def test_published_parameter_counts():
    def count(variant, num_classes):
        model = SegNet(num_classes, **VARIANTS[variant])
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
        kernels = [path for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["params"]) if leaf.ndim == 4]
        return count_params(shapes), len(kernels)

    # 26 convolutions, section 3; table 6: a file of 117 MB, which has float32 values, biases and statistics too.
    parameters, convolutions = count("segnet", 11)
    assert convolutions == 26 and 4 * parameters / 1e6 == pytest.approx(117, abs=1)
    # Table 1: 1.425 M, where all counts are multiples of 0.025 M.
    parameters, convolutions = count("segnet_basic", 11)
    assert round(parameters / 25e3) * 25e3 == 1.425e6 and convolutions == 9
    reference = ReferenceSegNetBasic(11)
    assert parameters == sum(parameter.numel() for parameter in reference.parameters())
    for variant in VARIANTS:
        if "single_channel" not in variant:
            assert count(variant, 11) == count("segnet_basic" if "basic" in variant else "segnet", 11)
    # Table 1: 0.625 M.
    parameters, convolutions = count("segnet_basic_single_channel_decoder", 11)
    assert round(parameters / 25e3) * 25e3 == 0.625e6 and convolutions == 9


@pytest.mark.parametrize("decoder", ["bilinear", "addition", "single_channel"])
def test_decoder_variants_equal_the_reference(decoder):
    theirs = randomised(ReferenceSegNetBasic(5, width=4, decoder=decoder)).eval()
    ours = SegNet(5, form="basic", width=4, decoder=decoder)
    image = random_image((2, 37, 50, 3))
    with torch.no_grad():
        expected = nhwc(theirs(nchw(image)))
    assert_close(fast_jit(ours.apply)(converted(theirs, ours, RULES), image), expected)


@pytest.mark.parametrize(
    "form, places, expected",
    [
        ("basic", "central", ["encoder3", "encoder4", "decoder4", "decoder3"]),
        ("vgg16", "central", ["encoder3", "encoder4", "encoder5", "decoder5", "decoder4", "decoder3"]),
        ("basic", "center", ["encoder4"]),
        ("basic", "classifier", ["decoder1"]),
        ("basic", "encoder", [f"encoder{i}" for i in (1, 2, 3, 4)]),
        ("basic", "decoder", [f"decoder{i}" for i in (4, 3, 2, 1)]),
        ("basic", "encoder_decoder", [f"encoder{i}" for i in (1, 2, 3, 4)] + [f"decoder{i}" for i in (4, 3, 2, 1)]),
    ],
)
def test_dropout_stands_where_the_paper_has_it(form, places, expected):
    """By the shapes that are dropped from: a size a stage, and the encoder's are halved already."""
    seen = []
    model = SegNet(5, form=form, width=2, dropout=0.5, dropout_at=places)

    def record(next_function, args, kwargs, context):
        if type(context.module).__name__ == "Dropout":
            seen.append((args[0].shape[1], context.module.rate))
        return next_function(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    deepest = {"basic": 4, "vgg16": 5}[form]
    size = {f"encoder{i}": 64 >> i for i in range(1, deepest + 1)}
    size |= {f"decoder{i}": 64 >> (i - 1) for i in range(1, deepest + 1)}
    assert seen == [(size[name], 0.5) for name in expected]
    assert places in DROPOUT_AT


def test_dropout_changes_training_alone():
    model = SegNet(5, form="basic", width=2, dropout=0.5)
    variables = random_variables(model, (1, 32, 32, 3))
    image = random_image((1, 32, 32, 3))

    @fast_jit
    def logits(key):
        return model.apply(variables, image, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    assert not np.array_equal(logits(jax.random.key(0)), logits(jax.random.key(1)))
    plain = SegNet(5, form="basic", width=2)
    ours, expected = fast_jit(lambda v, x: (model.apply(v, x), plain.apply(v, x)))(variables, image)
    np.testing.assert_array_equal(ours, expected)


def test_wrong_fields_are_explained():
    with pytest.raises(ValueError, match=r"form must be in \('vgg16', 'basic'\); received 'large'"):
        SegNet(5, form="large")
    with pytest.raises(ValueError, match="dropout_at must be in .*received 'middle'"):
        SegNet(5, dropout_at="middle")
    with pytest.raises(ValueError, match="0 <= dropout < 1"):
        SegNet(5, dropout=1.0)
    with pytest.raises(ValueError, match="decoder must be in .*received 'nearest'"):
        SegNet(5, decoder="nearest")
    with pytest.raises(ValueError, match="decoder='addition' needs form='basic'.*received 'vgg16'"):
        SegNet(5, decoder="addition")

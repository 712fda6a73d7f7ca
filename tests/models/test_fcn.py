import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import count_params
from segjax.models.fcn import FCN, VARIANTS
from segjax.models.layers.upsample import bilinear_kernel
from tests.models.variables import random_image, random_variables
from tests.references.convolution import convolution, max_pool
from tests.references.upsample import bilinear, conv_transpose

STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))  # convolutions and channels (in 64) of VGG16


def small(**fields):
    return FCN(num_classes=3, width=1, fc_channels=4, **fields)


@pytest.mark.parametrize("learn_final", [False, True])
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_number_of_parameters_follows_from_the_layers(stride, learn_final):
    count, channels = 0, 3
    for convolutions, units in STAGES:
        for _ in range(convolutions):
            count += 9 * channels * 64 * units + 64 * units
            channels = 64 * units
    assert count == 14_714_688  # VGG16 without its fully connected layers
    count += 7 * 7 * 512 * 4096 + 4096 + 4096 * 4096 + 4096
    assert count // 10**6 == 134  # what VGG16 has without its 1000-way classifier, Long et al. 2015, table 1
    scored = {32: [4096], 16: [4096, 512], 8: [4096, 512, 256]}[stride]
    count += sum(inputs * 21 + 21 for inputs in scored)
    count += (len(scored) - 1) * 4 * 4 * 21 * 21
    if learn_final:
        count += (2 * stride) ** 2 * 21 * 21
    model = FCN(num_classes=21, stride=stride, learn_final=learn_final)
    image = jax.ShapeDtypeStruct((1, 97, 131, 3), jnp.float32)
    assert count_params(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)) == count


def numpy_fcn(params, image, stride, pool4_scale, pool3_scale):
    """FCN without dropout, its last upsampling fixed, from our parameters; sides are multiples of 32."""

    def conv(x, layer, pad=0):
        return convolution(x, layer["kernel"], pads=((pad, pad), (pad, pad))) + layer["bias"]

    def double(x, kernel):
        x = conv_transpose(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"), kernel, 2)
        return x[:, 3:-3, 3:-3]

    x, pools = image, {}
    for stage, (convolutions, _) in enumerate(STAGES, start=1):
        for i in range(1, convolutions + 1):
            x = np.maximum(conv(x, params["backbone"][f"conv{stage}_{i}"]["conv"], pad=1), 0)
        x = pools[stage] = max_pool(x, (2, 2), (2, 2))
    x = np.maximum(conv(x, params["fc6"]["conv"], pad=3), 0)
    x = np.maximum(conv(x, params["fc7"]["conv"]), 0)
    x = conv(x, params["score_fc7"])
    if stride <= 16:
        x = double(x, params["upscore_pool4"]["kernel"]) + conv(pool4_scale * pools[4], params["score_pool4"])
    if stride <= 8:
        x = double(x, params["upscore_pool3"]["kernel"]) + conv(pool3_scale * pools[3], params["score_pool3"])
    return bilinear(x, image.shape[1:3])


@pytest.mark.parametrize("stride", [32, 8])
def test_fcn_equals_numpy_reference(stride):
    model = small(stride=stride, pool4_scale=0.5, pool3_scale=0.25)
    variables = random_variables(model, (1, 50, 33, 3))
    image = random_image((1, 50, 33, 3))
    padded = np.pad(np.asarray(image), ((0, 0), (0, 14), (0, 31), (0, 0)))
    expected = numpy_fcn(variables["params"], padded, stride, 0.5, 0.25)[:, :50, :33]
    logits = jax.jit(model.apply)(variables, image)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def started():
    """FCN-16s with a learned last upsampling, as its own initialisers start it."""
    model = small(stride=16, learn_final=True)
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    return model, init(jax.random.key(0), jnp.zeros((1, 33, 50, 3)))


def test_training_starts_from_zero_scores_and_bilinear_upsampling(started):
    model, variables = started
    params = variables["params"]
    assert not np.any(jax.jit(model.apply)(variables, random_image((1, 33, 50, 3))))
    np.testing.assert_array_equal(params["upscore_pool4"]["kernel"], bilinear_kernel(4, 3))
    np.testing.assert_array_equal(params["upscore_final"]["kernel"], bilinear_kernel(32, 3))
    assert np.std(params["fc6"]["conv"]["kernel"]) > 0


def test_learned_last_upsampling_starts_as_the_fixed_one(started):
    _, variables = started
    image = random_image((1, 33, 50, 3))
    params = dict(random_variables(small(stride=16), image.shape)["params"])
    fixed = jax.jit(small(stride=16).apply)({"params": params}, image)
    params["upscore_final"] = variables["params"]["upscore_final"]
    learned = jax.jit(small(stride=16, learn_final=True).apply)({"params": params}, image)
    # Up to the very edge: scores are continued, so that they do not fade.
    np.testing.assert_allclose(learned, fixed, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only():
    model = small(stride=32)
    image = random_image((1, 32, 32, 3))
    variables = random_variables(model, image.shape)
    run = jax.jit(lambda key: model.apply(variables, image, train=True, rngs={"dropout": key}))
    outputs = [np.asarray(run(jax.random.key(seed))) for seed in range(4)]
    assert any(not np.allclose(output, outputs[0]) for output in outputs[1:])


def test_variants_are_fields_of_the_model():
    assert {name: FCN(num_classes=2, **fields).stride for name, fields in VARIANTS.items()} == {
        "32s": 32,
        "16s": 16,
        "8s": 8,
        "8s-at-once": 8,
    }


@pytest.mark.parametrize("fields", [dict(stride=4), dict(dropout=1.0), dict(fc_channels=0)])
def test_wrong_fields_are_refused(fields):
    (field,) = fields
    with pytest.raises(ValueError, match=f"{field}.*received"):
        FCN(num_classes=2, **fields)

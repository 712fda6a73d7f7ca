import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import count_params
from segjax.models.backbones.vgg import VGG16, VGG16Classifier
from tests.models.variables import random_image, random_variables
from tests.references.convolution import convolution, max_pool

STAGES = (2, 2, 3, 3, 3)  # Simonyan and Zisserman 2015, table 1, column D


def shapes_of(model, shape):
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_classifier_has_the_published_number_of_parameters():
    assert count_params(shapes_of(VGG16Classifier(), (1, 224, 224, 3))) == 138_357_544
    # torchvision's vgg16_bn has 138,365,992; its 4224 convolution channels have a bias each that ours have not.
    assert count_params(shapes_of(VGG16Classifier(batch_norm=True), (1, 224, 224, 3))) == 138_365_992 - 4224


@pytest.mark.parametrize("batch_norm", [False, True])
def test_features_are_those_that_feature_info_announces(batch_norm):
    model = VGG16(width=4, batch_norm=batch_norm)
    features, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x),
        jax.ShapeDtypeStruct((2, 97, 131, 3), jnp.float32),
    )
    assert list(features) == [2, 4, 8, 16, 32] == [info.level for info in model.feature_info]
    for info in model.feature_info:
        assert features[info.stride].shape == (2, 97 // info.stride, 131 // info.stride, info.channels)
    assert VGG16().feature_info[-1] == (32, 32, 512)
    assert ("batch_stats" in variables) == batch_norm


def test_backbone_equals_numpy_reference():
    model = VGG16(width=1)
    variables = random_variables(model, (1, 35, 33, 3))
    image = random_image((1, 35, 33, 3))
    features = jax.jit(model.apply)(variables, image)
    x = np.asarray(image)
    for stage, count in enumerate(STAGES, start=1):
        for i in range(1, count + 1):
            layer = variables["params"][f"conv{stage}_{i}"]["conv"]
            x = np.maximum(convolution(x, layer["kernel"], pads=((1, 1), (1, 1))) + layer["bias"], 0)
        x = max_pool(x, (2, 2), (2, 2))
        np.testing.assert_allclose(features[2**stage], x, rtol=1e-4, atol=1e-4)


def test_first_fully_connected_layer_reads_pool5_row_by_row():
    model = VGG16Classifier(num_classes=3, width=1, fc_channels=5)
    variables = random_variables(model, (1, 64, 96, 3))
    image = random_image((1, 64, 96, 3))
    params = variables["params"]
    x = np.asarray(jax.jit(VGG16(width=1).apply)({"params": params["backbone"]}, image)[32]).reshape(1, -1)
    for name, layer in (("fc6", params["fc6"]["conv"]), ("fc7", params["fc7"]["conv"]), ("fc8", params["fc8"])):
        x = x @ np.reshape(layer["kernel"], (x.shape[1], -1)) + layer["bias"]
        x = x if name == "fc8" else np.maximum(x, 0)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, image), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("pool_window", [2, 3])
def test_features_keep_the_output_stride(output_stride, pool_window):
    model = VGG16(width=2, output_stride=output_stride, pool_window=pool_window)
    image = jax.ShapeDtypeStruct((1, 97, 131, 3), jnp.float32)
    features, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    for level, stride, channels in model.feature_info:
        assert stride == min(level, output_stride)
        # 3x3 windows are centred on every second pixel from the first one on, 2x2 ones leave an odd one out.
        size = [-(-side // stride) if pool_window == 3 else side // stride for side in (97, 131)]
        assert features[level].shape == (1, *size, channels)


@pytest.mark.parametrize("fields", [dict(output_stride=4), dict(pool_window=4)])
def test_wrong_fields_are_explained(fields):
    (field,) = fields
    with pytest.raises(ValueError, match=f"{field} in .*received.*{field}=4"):
        VGG16(**fields)

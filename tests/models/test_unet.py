import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models import count_params
from segjax.models.unet import VARIANTS, UNet, valid_sizes
from tests.models.variables import random_image, random_variables
from tests.references.unet import original_unet


def test_original_form_has_the_published_number_of_parameters():
    model = UNet(num_classes=2, **VARIANTS["original"])
    image = jax.ShapeDtypeStruct((1, 97, 131, 1), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
    assert count_params(variables) == 31_030_658


def test_original_form_maps_572_to_388_pixels():
    # Figure 1.
    model = UNet(num_classes=2, **VARIANTS["original"])
    image = jax.ShapeDtypeStruct((1, 572, 572, 1), jnp.float32)
    logits = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, method="network")[0], image)
    assert logits.shape == (1, 388, 388, 2)
    assert valid_sizes(388, depth=4) == (572, 388)


def output_size(size, depth):
    """Of the unpadded network, or None where some side is odd or vanishes on the way."""
    for _ in range(depth):
        size -= 4
        if size <= 0 or size % 2:
            return None
        size //= 2
    size -= 4
    for _ in range(depth):
        size = 2 * size - 4
    return size if size > 0 else None


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_valid_sizes_are_the_smallest_that_cover(depth):
    for size in range(1, 70):
        fitting = [(n, output_size(n, depth)) for n in range(1, 300) if (output_size(n, depth) or 0) >= size]
        assert valid_sizes(size, depth) == fitting[0]


def small_original():
    return UNet(num_classes=3, width=2, depth=2, padding="valid", norm="none", dropout=0.5)


def test_original_form_equals_numpy_reference():
    model = small_original()
    variables = random_variables(model, (1, 7, 9, 1))
    image = random_image((2, 7, 9, 1))
    # Depth 2 loses 40 pixels; 8 and 12 are the next sizes of the output; 20 pixels are mirrored before.
    margins = ((0, 0), (20, 48 - 7 - 20), (20, 52 - 9 - 20), (0, 0))
    mirrored = np.pad(np.asarray(image), margins, mode="reflect")
    expected = original_unet(variables["params"], mirrored, depth=2)
    assert expected.shape == (2, 8, 12, 3)
    network = jax.jit(lambda v, x: model.apply(v, x, method="network"))(variables, mirrored)
    np.testing.assert_allclose(network, expected, rtol=1e-4, atol=1e-4)
    logits = jax.jit(model.apply)(variables, image)
    np.testing.assert_allclose(logits, expected[:, :7, :9], rtol=1e-4, atol=1e-4)


def test_without_skips_equals_numpy_reference():
    model = small_original().clone(skips=False)
    variables = random_variables(model, (1, 7, 9, 1))
    image = random_image((1, 48, 52, 1))
    expected = original_unet(variables["params"], image, depth=2, with_skips=False)
    network = jax.jit(lambda v, x: model.apply(v, x, method="network"))(variables, image)
    np.testing.assert_allclose(network, expected, rtol=1e-4, atol=1e-4)

    # Half of the channels that the first convolutions of a level read came from the skip connection.
    def weights(params):
        return {level: params[f"up{level}_conv0"]["conv"]["kernel"].size for level in (0, 1)}

    full = jax.eval_shape(lambda: small_original().init(jax.random.key(0), image))["params"]
    assert {level: 2 * count for level, count in weights(variables["params"]).items()} == weights(full)


def test_dropout_acts_in_training_only():
    model = small_original()
    variables = random_variables(model, (1, 7, 9, 1))
    image = random_image((1, 7, 9, 1))
    run = jax.jit(lambda key: model.apply(variables, image, train=True, rngs={"dropout": key}))
    first = run(jax.random.key(0))
    np.testing.assert_array_equal(run(jax.random.key(0)), first)
    assert not np.allclose(run(jax.random.key(1)), first)
    assert not np.allclose(jax.jit(model.apply)(variables, image), first)


@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_padding_does_not_change_the_logits_in_the_interior(up):
    model = UNet(num_classes=3, width=3, depth=2, up=up)
    variables = random_variables(model, (1, 16, 16, 3))
    image = random_image((1, 8, 98, 3))  # padded by 2 columns
    apply = jax.jit(model.apply)
    alone = apply(variables, image[:, :, :77])  # padded by 3 columns
    whole = apply(variables, image)
    assert alone.shape == (1, 8, 77, 3) and whole.shape == (1, 8, 98, 3)
    # How far a logit sees: 2 + 4 + 8 + 4 + 2 columns by convolutions, 2 + 4 by interpolation, 3 by pooling.
    np.testing.assert_allclose(alone[:, :, : 77 - 29], whole[:, :, : 77 - 29], rtol=1e-5, atol=1e-5)
    assert not np.allclose(alone[:, :, -1], whole[:, :, 76], atol=1e-3)


@pytest.mark.parametrize("form", [dict(), dict(up="bilinear"), dict(padding="valid", norm="none")])
@pytest.mark.parametrize("size", [(1, 1), (17, 19)])
def test_small_images_work(size, form):
    model = UNet(num_classes=2, width=1, depth=3, **form)
    shapes = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x),
        jax.ShapeDtypeStruct((2, *size, 3), jnp.float32),
    )
    assert shapes[0].shape == (2, *size, 2) and shapes[0].dtype == jnp.float32


def test_an_image_of_one_pixel_is_mirrored_into_a_constant_one():
    model = UNet(num_classes=2, width=1, depth=1, padding="valid", norm="none")
    variables = random_variables(model, (1, 1, 1, 3))
    pixel = random_image((1, 1, 1, 3))
    apply = jax.jit(model.apply)
    constant = apply(variables, jnp.tile(pixel, (1, 3, 3, 1)))
    np.testing.assert_allclose(apply(variables, pixel), constant[:, :1, :1], rtol=1e-5, atol=1e-6)


def test_every_parameter_is_used():
    model = UNet(num_classes=3, width=4, depth=2)
    variables = random_variables(model, (1, 16, 16, 3))
    image = random_image((2, 13, 15, 3))

    def loss(params):
        logits = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])[0]
        return (logits**2).mean()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all() and np.any(gradient), jax.tree_util.keystr(path)
    # Full-resolution features meet the upsampled ones: 4 + 4 channels.
    assert variables["params"]["up0_conv0"]["conv"]["kernel"].shape == (3, 3, 8, 4)
    # ReLU lets each input channel of that convolution count.
    assert np.abs(gradients["up0_conv0"]["conv"]["kernel"]).max((0, 1, 3)).all()


def test_kernels_start_with_the_standard_deviation_of_the_paper():
    model = UNet(num_classes=2, width=32, depth=1, padding="valid", norm="none")
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, 1, 3)))["params"]
    # Section 3: sqrt(2 / N), N incoming nodes. The standard error of a spread from n draws is 1 / sqrt(2 n).
    for kernel, nodes in (
        (params["down1_conv1"]["conv"]["kernel"], 9 * 64),
        (params["up0_conv0"]["conv"]["kernel"], 9 * 64),
        (params["up0"]["kernel"], 64),
    ):
        np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / nodes), rtol=4 / np.sqrt(2 * kernel.size))
    assert not np.any(params["down0_conv0"]["conv"]["bias"])


@pytest.mark.parametrize("fields", [dict(padding="reflect"), dict(norm="group"), dict(up="nearest"), dict(depth=0)])
def test_wrong_fields_are_refused(fields):
    (field,) = fields
    with pytest.raises(ValueError, match=f"{field}.*received"):
        UNet(num_classes=2, **fields)

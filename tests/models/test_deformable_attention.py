"""Deformable attention against transformers', which samples with PyTorch's grid_sample; and positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.layers.deformable_attention import DeformableAttention, deformable_attention, ring
from segjax.models.layers.positions import sine_positions
from tests.models.variables import fast_jit, random_image

SIZES = [(3, 5), (6, 7), (1, 1)]


@pytest.fixture(scope="module")
def reference():
    reference = pytest.importorskip("tests.references.pytorch")
    reference.library("transformers")
    return reference


def inputs(spread=3.0):
    """Values of SIZES, and the places and weights of 11 queries, two heads and four points."""
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(2, *size, 2, 4)).astype(np.float32) for size in SIZES]
    centre = np.array([[width, height] for height, width in SIZES])[:, None] / 2
    places = centre + spread * rng.normal(size=(2, 11, 2, 3, 4, 2))
    places[0, 0, 0, :, 0] = [[1e10, 1.5], [-1e10, 0.5], [1e10, -1e10]]
    weights = rng.dirichlet(np.ones(12), (2, 11, 2)).reshape(2, 11, 2, 3, 4)
    return values, places.astype(np.float32), weights.astype(np.float32)


def test_samples_and_gradients_equal_transformers(reference):
    from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

    torch = reference.torch
    values, places, weights = inputs()
    upstream = random_image((2, 11, 2, 4))
    tensors = [torch.tensor(x, requires_grad=True) for x in (*values, places, weights)]
    sizes = torch.tensor([[width, height] for height, width in SIZES])
    locations = (tensors[-2] + 0.5) / sizes[:, None]
    value = torch.cat([x.flatten(1, 2) for x in tensors[:3]], 1)
    theirs = multi_scale_deformable_attention(value, SIZES, locations, tensors[-1]).reshape(2, 11, 2, 4)
    (theirs * torch.from_numpy(np.array(upstream))).sum().backward()

    ours = fast_jit(deformable_attention)(values, places, weights)
    reference.assert_close(ours, theirs.detach(), 1e-5)
    loss = jax.grad(lambda *args: (deformable_attention(*args) * upstream).sum(), (0, 1, 2))
    d_values, d_places, d_weights = fast_jit(loss)(values, places, weights)
    for found, tensor in zip((*d_values, d_places, d_weights), tensors, strict=True):
        reference.assert_close(found, tensor.grad, 1e-5)


def test_gradient_on_the_centre_of_a_pixel():
    """Training starts on centres: the places move up a slope of 2 a column and 3 a row from there too."""
    rows, columns = np.indices((5, 6)).astype(np.float32)
    values = [(2 * columns + 3 * rows)[None, :, :, None, None]]
    places = np.float32([[0, 0], [2, 3], [4, 3]]).reshape(1, 3, 1, 1, 1, 2)
    gradient = jax.grad(lambda places: deformable_attention(values, places, jnp.ones((1, 3, 1, 1, 1))).sum())(places)
    np.testing.assert_array_equal(gradient.reshape(3, 2), np.tile([2.0, 3.0], (3, 1)))


def test_sixteen_bit_values_are_summed_in_thirty_two():
    """A thousand queries look at one pixel, and its gradient is 1000; in bfloat16, ones add up to 256."""
    places, weights = jnp.zeros((1, 1000, 1, 1, 1, 2)), jnp.ones((1, 1000, 1, 1, 1))
    value = jnp.ones((1, 1, 1, 1, 1), jnp.bfloat16)
    assert deformable_attention([value], places, weights).dtype == jnp.float32
    gradient = jax.grad(lambda value: deformable_attention([value], places, weights).sum())(value)
    assert gradient.dtype == jnp.bfloat16 and gradient.item() == 1000


def memory(sizes):
    """Of the gradient of a layer of deformable attention on a pyramid."""
    layer = DeformableAttention(heads=2, points=4)
    pixels = jax.ShapeDtypeStruct((1, sum(height * width for height, width in sizes), 8), jnp.float32)
    variables = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, x, sizes), pixels)
    loss = jax.grad(lambda variables, x: (layer.apply(variables, x, x, sizes) ** 2).sum(), (0, 1))
    return fast_jit(loss).lower(variables, pixels).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_linear_in_the_pixels():
    small, large = ([(n, 20), (2 * n, 40), (4 * n, 80)] for n in (8, 24))
    assert memory(large) < 3.1 * memory(small)


def test_a_layer_begins_with_the_ring_and_equal_weights():
    layer = DeformableAttention(heads=4, points=2)
    sizes = [(4, 6), (2, 3)]
    query, value = random_image((1, 30, 8)), random_image((1, 30, 8), seed=2)
    variables = fast_jit(lambda *args: layer.init(*args, sizes))(jax.random.key(0), query, value)
    params = variables["params"]
    # Of four heads, one looks to the right, one down, one to the left and one up.
    directions = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    expected = np.broadcast_to(directions[:, None, None] * np.array([[1], [2]]), (4, 2, 2, 2))
    np.testing.assert_allclose(params["offsets"]["bias"].reshape(4, 2, 2, 2), expected, atol=1e-6)
    assert not any(np.any(params[name]["kernel"]) for name in ("offsets", "weights"))
    # Head 0 of the pixel at row 1, column 3 of the first level, which lies at row 1/4, column 5/4 of the second one.
    projected = value @ params["value"]["kernel"]
    first, second = projected[0, :24, :2].reshape(4, 6, 2), projected[0, 24:, :2].reshape(2, 3, 2)
    row = second[0] * 0.75 + second[1] * 0.25
    expected = (first[1, 4] + first[1, 5] + row[2] * 0.75) / 4
    names = {**params, "out": {"kernel": jnp.eye(8), "bias": jnp.zeros(8)}}
    found = fast_jit(lambda *args: layer.apply(*args, sizes))({"params": names}, query, value)
    np.testing.assert_allclose(found[0, 9, :2], expected, rtol=1e-4, atol=1e-6)


def test_the_ring_equals_transformers(reference):
    """Eight heads: those that look diagonally step as far along both axes."""
    import transformers

    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(
            embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, out_features=["stage1", "stage2", "stage3", "stage4"]
        ),
        feature_size=32,
        encoder_layers=1,
        decoder_layers=1,
    )
    layer = transformers.Mask2FormerModel(config).pixel_level_module.decoder.encoder.layers[0].self_attn
    np.testing.assert_allclose(ring(8, 3, 4).ravel(), layer.sampling_offsets.bias.detach(), atol=1e-5)


def test_sixteen_bit_layer_is_close():
    sizes = [(4, 6), (2, 3)]
    x = random_image((1, 30, 8))
    layers = [DeformableAttention(heads=2, points=2, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    rng = np.random.default_rng(0)
    variables = fast_jit(lambda *args: layers[0].init(*args, sizes))(jax.random.key(0), x, x)
    variables = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), variables)
    exact, found = (fast_jit(lambda v, x, m=layer: m.apply(v, x, x, sizes))(variables, x) for layer in layers)
    assert found.dtype == jnp.bfloat16
    assert np.abs(found.astype(jnp.float32) - exact).max() < 0.02 * np.abs(exact).max()


def test_positions_equal_transformers(reference):
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

    theirs = Mask2FormerSinePositionEmbedding(16, normalize=True)((1, 1, 5, 7), "cpu", reference.torch.float32)
    np.testing.assert_allclose(sine_positions((5, 7), 32), reference.nhwc(theirs)[0], atol=1e-6)

"""Softmax attention in its forms against PyTorch, its memory, and the maps that it leaves."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.build_evaluation import attention_viewer
from segjax.core.batch import ATTENTION
from segjax.models.layers import attention as layer
from segjax.models.layers.attention import attention, chosen_form, keep_map
from tests.references.pytorch import assert_close, torch


def inputs(queries, keys, heads=2, width=8, values=8, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (batch, queries, heads, width), (batch, keys, heads, width), (batch, keys, heads, values)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def in_pytorch(query, key, value, bias, scale):
    """PyTorch's own, with its gradients of the sum of squares."""
    leaves = [torch.from_numpy(x).transpose(1, 2).requires_grad_() for x in (query, key, value)]
    bias = None if bias is None else torch.from_numpy(bias)
    found = torch.nn.functional.scaled_dot_product_attention(*leaves, attn_mask=bias, scale=scale)
    gradients = torch.autograd.grad((found**2).sum(), leaves)
    return [x.detach().transpose(1, 2).numpy() for x in (found, *gradients)]


def bias_of(kind, queries, keys):
    rng = np.random.default_rng(1)
    if kind is None:
        return None
    bias = rng.standard_normal({"full": (2, 2, queries, keys), "keys": (2, 1, 1, keys)}[kind]).astype(np.float32)
    return np.where(rng.random(bias.shape) < 0.3, -np.inf, bias).astype(np.float32)


@pytest.mark.parametrize("form", ["whole", "chunked"])
@pytest.mark.parametrize(
    ("queries", "keys", "values", "bias", "scale"),
    [
        (7, 5, 8, None, None),
        (layer.CHUNK + 3, 40, 8, "full", 0.3),
        (2 * layer.CHUNK, 17, 5, "keys", 1.0),
        (1, 2, 3, None, None),
    ],
)
def test_every_form_is_that_of_pytorch_with_its_gradient(form, queries, keys, values, bias, scale):
    arrays = inputs(queries, keys, values=values)
    bias = bias_of(bias, queries, keys)

    def squares(query, key, value):
        found = attention(query, key, value, bias, scale=scale, form=form)
        return (found**2).sum(), found

    (_, found), gradients = jax.jit(jax.value_and_grad(squares, (0, 1, 2), has_aux=True))(*arrays)
    for ours, theirs in zip((found, *gradients), in_pytorch(*arrays, bias, scale), strict=True):
        assert_close(ours, theirs, 1e-5)


def test_sixteen_bits_keep_the_softmax_in_thirty_two():
    query, key, value = (jnp.asarray(x, jnp.bfloat16) for x in inputs(20, 30))
    exact = attention(*(x.astype(jnp.float32) for x in (query, key, value)), scale=4.0)
    for form in ("whole", "chunked"):
        found = attention(query, key, value, scale=4.0, form=form)
        assert found.dtype == jnp.bfloat16
        # The scores reach 40, where bfloat16's own step is a quarter: a softmax in it would be wrong by tenths.
        np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.04)


def memory(length, form):
    shape = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)

    def loss(query, key, value):
        return (attention(query, key, value, form=form) ** 2).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, shape).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_the_chunked_form_is_linear():
    """Three times the pixels want nine times the memory as a whole, and three times it in chunks."""
    assert memory(6144, "whole") > 8 * memory(2048, "whole")
    assert memory(6144, "chunked") < 3.3 * memory(2048, "chunked")
    assert memory(6144, "chunked") < memory(6144, "whole") / 10


def test_auto_takes_chunks_where_the_matrix_is_large():
    def chosen(queries, keys):
        return chosen_form(*(jnp.zeros((1, n, 1, 8)) for n in (queries, keys, keys)))

    assert chosen(64, 64) == chosen(1024, 1023) == chosen(100, 10**6) == "whole"
    assert chosen(1024, 1024) == chosen(2**14, 64) == "chunked"


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="auto, whole, chunked, cudnn; received 'flash'"):
        attention(*inputs(2, 2), form="flash")


class Gated(nn.Module):
    """A gate that is the first channel, and an attention of two heads on a grid of 3 x 4 to one of 2 x 2."""

    @nn.compact
    def __call__(self, x, train=False):
        keep_map(self, "gate", lambda: x[..., 0])
        keep_map(self, "dot", lambda: jnp.arange(96.0).reshape(1, 2, 3, 4, 2, 2))
        return x


def test_maps_are_left_only_where_they_are_asked_for():
    image = jnp.ones((1, 6, 8, 3))
    variables = Gated().init(jax.random.key(0), image)
    assert not variables
    assert jnp.shape(Gated().apply(variables, image)) == image.shape
    found = Gated().apply(variables, image, mutable=[ATTENTION])[1][ATTENTION]
    assert {name: leaf.shape for name, leaf in found.items()} == {"gate": (1, 6, 8), "dot": (1, 2, 3, 4, 2, 2)}


@pytest.mark.parametrize(("place", "query"), [((0.0, 0.0), 0), ((0.5, 0.99), 7), ((1.0, 1.0), 11)])
def test_the_viewer_shows_what_a_pixel_takes_from(place, query):
    image = jax.random.uniform(jax.random.key(0), (1, 6, 8, 3))
    found = attention_viewer(Gated())({}, image, jnp.array(place))
    np.testing.assert_array_equal(found["gate"], image[0, ..., 0])
    heads = np.arange(96.0).reshape(2, 12, 2, 2)[:, query]
    np.testing.assert_allclose(found["dot"], heads.mean(0))


def test_of_queries_that_are_no_pixels_the_viewer_shows_the_one_that_looks_there():
    class Queries(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            maps = jnp.zeros((1, 2, 3, 1, 4, 5)).at[0, :, 1, 0, 3, 0].set(0.7).at[0, :, 2, 0, 0, 4].set(0.9)
            keep_map(self, "tall", lambda: maps)
            keep_map(self, "wide", lambda: maps.swapaxes(2, 3))
            return x

    found = attention_viewer(Queries())({}, jnp.ones((1, 8, 10, 3)), jnp.array((0.9, 0.1)))
    for name in ("tall", "wide"):
        assert found[name].shape == (4, 5) and found[name].argmax() == 15


def test_a_model_without_attention_is_an_error():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return x

    with pytest.raises(ValueError, match="Plain as configured has no attention"):
        attention_viewer(Plain())({}, jnp.ones((1, 4, 4, 3)), jnp.zeros(2))

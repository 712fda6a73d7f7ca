"""Winograd's filtering against the definition of a convolution, in float64, and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.core import program, sharding
from segjax.models.layers import winograd
from segjax.models.layers.conv import convolve
from tests.models.variables import FAST

SAME, VALID = ((1, 1), (1, 1)), ((0, 0), (0, 0))
NHWC = ("NHWC", "HWIO", "NHWC")


def defined(image, kernel, pads):
    """The definition, pixel by pixel of the kernel, in float64."""
    image = np.pad(np.asarray(image, np.float64), ((0, 0), *pads, (0, 0)))
    height, width = image.shape[1] - 2, image.shape[2] - 2
    windows = [image[:, i : i + height, j : j + width] @ np.float64(kernel[i, j]) for i in range(3) for j in range(3)]
    return sum(windows)


def defined_gradients(image, kernel, pads, gradient):
    padded = np.pad(np.asarray(image, np.float64), ((0, 0), *pads, (0, 0)))
    height, width = gradient.shape[1:3]
    d_image, d_kernel = np.zeros_like(padded), np.zeros(kernel.shape)
    for i in range(3):
        for j in range(3):
            seen = (slice(None), slice(i, i + height), slice(j, j + width))
            d_image[seen] += gradient @ np.float64(kernel[i, j]).T
            d_kernel[i, j] = np.einsum("nhwc,nhwf->cf", padded[seen], np.float64(gradient))
    (top, bottom), (left, right) = pads
    return d_image[:, top : padded.shape[1] - bottom, left : padded.shape[2] - right], d_kernel


def drawn(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def plain(image, kernel):
    return jax.lax.conv_general_dilated(image, kernel, (1, 1), SAME, dimension_numbers=NHWC)


@pytest.mark.parametrize(
    ("size", "pads"),
    [((8, 6), SAME), ((7, 5), SAME), ((1, 1), SAME), ((2, 3), SAME), ((8, 7), VALID), ((5, 6), ((1, 0), (0, 1)))],
)
def test_it_is_the_convolution_and_so_are_its_gradients(size, pads):
    image, kernel = drawn((2, *size, 5), (3, 3, 5, 4))
    found, pull = jax.vjp(lambda image, kernel: winograd.convolve_3x3(image, kernel, pads), image, kernel)
    wanted = defined(image, kernel, pads)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    (gradient,) = drawn(wanted.shape)
    wanted = defined_gradients(image, kernel, pads, gradient)
    for got, want in zip(pull(gradient), wanted, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_it_rounds_about_as_much_as_the_direct_sum():
    image, kernel = drawn((2, 32, 32, 64), (3, 3, 64, 64))
    wanted = defined(image, kernel, SAME)
    error = [
        np.sqrt(np.mean(np.square(f - wanted))) for f in (plain(image, kernel), convolve(image, kernel, (1, 1), SAME))
    ]
    assert 0 < error[1] < 4 * error[0]


@pytest.mark.parametrize(
    ("image", "kernel", "options", "expected"),
    [
        ((2, 16, 16, 32), (3, 3, 32, 32), {}, True),
        ((2, 16, 16, 31), (3, 3, 31, 32), {}, False),
        ((2, 16, 16, 32), (3, 3, 32, 31), {}, False),
        ((1, 4, 4, 32), (3, 3, 32, 32), {}, False),
        ((2, 256, 256, 64), (3, 3, 64, 64), {}, False),
        ((2, 16, 16, 32), (3, 3, 32, 32), {"window_strides": (2, 2)}, False),
        ((2, 16, 16, 32), (3, 3, 32, 32), {"rhs_dilation": (2, 2), "padding": ((2, 2), (2, 2))}, False),
        ((2, 16, 16, 64), (3, 3, 32, 64), {"feature_group_count": 2}, False),
        ((2, 16, 16, 32), (5, 5, 32, 32), {"padding": ((2, 2), (2, 2))}, False),
    ],
)
def test_where_it_is_used(image, kernel, options, expected):
    options = {"window_strides": (1, 1), "padding": SAME, "dimension_numbers": NHWC} | options
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (image, kernel)]
    text = str(jax.make_jaxpr(lambda image, kernel: convolve(image, kernel, **options))(*shapes))
    assert ("custom_vjp_call" in text and "name=convolve_3x3" in text) == expected


def test_examples_that_do_not_divide_over_the_devices_take_the_plain_way():
    image, kernel = jnp.zeros((12, 16, 16, 32)), jnp.zeros((3, 3, 32, 32))
    suits = sharding.for_mesh(lambda count: winograd.suits(image[:count], kernel, SAME), sharding.make_mesh(4, 1))
    assert suits(8) and suits(12) and not suits(10) and not suits(1)


def test_sixteen_bits_take_the_plain_way():
    image, kernel = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((2, 16, 16, 32), (3, 3, 32, 32)))
    assert not winograd.suits(image, kernel, SAME)


def test_eight_devices_each_have_their_examples_and_sum_the_kernels_gradient_once():
    mesh = sharding.make_mesh(8, 1)
    image, kernel, target = drawn((8, 16, 16, 32), (3, 3, 32, 32), (8, 16, 16, 32))

    def gradient(kernel, image, target):
        loss = lambda kernel, image: (convolve(image, kernel, (1, 1), SAME, dimension_numbers=NHWC) * target).sum()  # noqa: E731
        return jax.grad(loss, (0, 1))(kernel, image)

    lies = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    step = jax.jit(sharding.for_mesh(gradient, mesh), in_shardings=(*lies, lies[1]), out_shardings=lies)
    compiled = step.lower(kernel, image, target).compile(FAST)
    found = program.collectives(compiled.as_text())
    assert [(each.kind, each.size, each.times) for each in found] == [("all-reduce", kernel.nbytes, 1)]
    arguments = [
        jax.device_put(array, where) for array, where in zip((kernel, image, target), (*lies, lies[1]), strict=True)
    ]
    d_kernel, d_image = compiled(*arguments)
    assert d_image.sharding.is_equivalent_to(lies[1], 4)
    wanted = defined_gradients(image, kernel, SAME, target)
    np.testing.assert_allclose(d_image, wanted[0], atol=1e-4)
    np.testing.assert_allclose(d_kernel, wanted[1], atol=1e-4 * np.abs(wanted[1]).max())

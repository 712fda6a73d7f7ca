import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from segjax.models.layers import conv, norm, pool, upsample
from tests.references import convolution as reference_convolution
from tests.references import upsample as reference_upsample

# Sums of up to a few hundred float32 products of order 1, taken in another order.
TOLERANCE = dict(rtol=1e-4, atol=1e-4)


def random(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_same_function(ours, plain, *arguments):
    """Equal values and equal gradients of a random projection of the result."""
    weights = random(jax.eval_shape(plain, *arguments).shape, seed=99)

    def value_and_gradient(function):
        value, pull = jax.vjp(function, *arguments)
        return value, pull(weights)

    ours, plain = jax.jit(lambda: (value_and_gradient(ours), value_and_gradient(plain)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), ours, plain)


def lowered_for(platform, function, *arguments):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


# Max pooling


@pytest.mark.parametrize("window, strides", [((2, 2), (2, 2)), ((3, 3), (2, 2)), ((2, 2), (1, 1)), ((2, 3), (2, 3))])
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (3, 3)])
@pytest.mark.parametrize("padding", ["VALID", "CEIL"])
def test_max_pool_equals_reference(size, window, strides, padding):
    x = random((2, *size, 3))
    expected = reference_convolution.max_pool(np.asarray(x), window, strides, ceil=padding == "CEIL")
    np.testing.assert_array_equal(pool.max_pool(x, window, strides, padding), expected)


def test_ceil_keeps_a_single_pixel_and_pads_nothing_into_the_maximum():
    x = jnp.full((1, 1, 1, 1), -5.0)
    assert pool.max_pool(x, padding="CEIL").tolist() == [[[[-5.0]]]]
    assert pool.max_pool(x).shape == (1, 0, 0, 1)


@pytest.mark.parametrize(
    "window, strides, padding",
    [((2, 2), (2, 2), "VALID"), ((3, 3), (2, 2), 1), ((3, 3), (1, 1), 1), ((3, 2), (1, 2), "SAME")],
)
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (1, 5)])
def test_max_pool_equals_linen_and_sends_ties_to_the_first(size, window, strides, padding):
    # Small integers: most windows have ties.
    x = jnp.round(random((2, *size, 5)))

    def linen(x):
        pads = padding if isinstance(padding, str) else ((padding, padding),) * 2
        return nn.max_pool(x, window, strides, pads)

    def ours(x):
        return pool.max_pool(x, window, strides, padding)

    assert "reduce_window" not in lowered_for("cpu", ours, x) and "reduce_window" in lowered_for("tpu", ours, x)
    assert_same_function(ours, linen, x)


@pytest.mark.parametrize("window", [(2, 2), (3, 3)])
def test_max_pool_keeps_nan_wherever_it_stands(window):
    for i in np.ndindex(window):
        x = jnp.zeros((1, *window, 1)).at[0, i[0], i[1], 0].set(jnp.nan)
        assert jnp.isnan(pool.max_pool(x, window)).all()


def test_max_pool_pads_all_sides_alike():
    x = random((2, 9, 12, 3)) - 5  # all below 0: padding with zeros would win
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = reference_convolution.max_pool(padded, (3, 3), (2, 2))
    np.testing.assert_array_equal(pool.max_pool(x, (3, 3), (2, 2), 1), expected)


def test_max_pool_refuses_unknown_padding():
    with pytest.raises(ValueError, match="'VALID', 'CEIL', 'SAME' or a number; received 'FULL'"):
        pool.max_pool(jnp.zeros((1, 4, 4, 1)), padding="FULL")


# Adaptive average pooling


@pytest.mark.parametrize("size", [(6, 12), (7, 5), (1, 2), (9, 13)])
@pytest.mark.parametrize("cells", [(1, 1), (2, 3), (6, 6)])
def test_adaptive_average_pool_equals_reference(size, cells):
    x = random((2, *size, 3))
    expected = np.empty((2, *cells, 3))
    for i, j in np.ndindex(cells):
        # The rows and columns that the documentation of PyTorch's AdaptiveAvgPool2d gives to a cell.
        top, left = i * size[0] // cells[0], j * size[1] // cells[1]
        bottom, right = math.ceil((i + 1) * size[0] / cells[0]), math.ceil((j + 1) * size[1] / cells[1])
        expected[:, i, j] = np.asarray(x, np.float64)[:, top:bottom, left:right].mean((1, 2))
    np.testing.assert_allclose(pool.adaptive_average_pool(x, cells), expected, **TOLERANCE)


def test_adaptive_average_pool_keeps_the_dtype_and_sums_in_float32():
    x = jnp.full((1, 64, 64, 1), 1.0078125, jnp.bfloat16)
    out = pool.adaptive_average_pool(x, (1, 1))
    assert out.dtype == jnp.bfloat16 and out.item() == 1.0078125


# Upsampling


@pytest.mark.parametrize("kernel_size, stride", [(2, 2), (3, 3), (4, 2), (6, 2), (16, 8), (3, 2), (5, 3)])
@pytest.mark.parametrize("size", [(3, 5), (1, 1)])
def test_conv_transpose_equals_reference_and_plain_form(kernel_size, stride, size):
    x, kernel = random((2, *size, 3)), random((kernel_size, kernel_size, 3, 4), seed=1)
    expected = reference_upsample.conv_transpose(x, kernel, stride)
    np.testing.assert_allclose(upsample.conv_transpose(x, kernel, stride), expected, **TOLERANCE)

    def plain(x, kernel):
        return jax.lax.conv_transpose(x, kernel, (stride, stride), "VALID")

    assert_same_function(lambda x, k: upsample._conv_transpose_blocks(x, k, stride), plain, x, kernel)


def test_conv_transpose_module_takes_the_variables_of_linen():
    x = random((2, 5, 7, 6))
    linen = nn.ConvTranspose(4, (2, 2), strides=(2, 2), padding="VALID", bias_init=nn.initializers.normal())
    variables = linen.init(jax.random.key(0), x)
    ours = upsample.ConvTranspose(4)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, variables)
    assert_same_function(ours.apply, linen.apply, variables, x)


def test_conv_transpose_module_refuses_a_kernel_smaller_than_the_stride():
    with pytest.raises(ValueError, match="at least the stride; received 1 and 2"):
        upsample.ConvTranspose(4, stride=2, kernel_size=1).init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))


def test_bilinear_kernel_by_hand():
    even, odd = np.array([0.25, 0.75, 0.75, 0.25]), np.array([0.5, 1.0, 0.5])
    np.testing.assert_allclose(upsample.bilinear_kernel(4, 1)[:, :, 0, 0], np.outer(even, even))
    np.testing.assert_allclose(upsample.bilinear_kernel(3, 1)[:, :, 0, 0], np.outer(odd, odd))
    kernel = upsample.bilinear_kernel(4, 3)
    assert kernel.shape == (4, 4, 3, 3)
    assert not kernel[:, :, ~np.eye(3, dtype=bool)].any()


@pytest.mark.parametrize("factor", [2, 8])
def test_transposed_convolution_with_bilinear_kernel_interpolates(factor):
    x = random((1, 5, 4, 3))
    up = upsample.conv_transpose(x, jnp.asarray(upsample.bilinear_kernel(2 * factor, 3)), factor)
    half = factor // 2
    inside = slice(factor, -factor)  # at the edge the transposed convolution fades to zero
    expected = reference_upsample.bilinear(x, (5 * factor, 4 * factor))
    np.testing.assert_allclose(
        up[:, half:-half, half:-half][:, inside, inside], expected[:, inside, inside], **TOLERANCE
    )


def test_bilinear_init_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"received \(4, 4, 2, 3\)"):
        upsample.bilinear_init(jax.random.key(0), (4, 4, 2, 3))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_resize_bilinear_equals_reference(height, width, new_height, new_width, align_corners):
    x = random((1, height, width, 2))
    out = upsample.resize_bilinear(x, (new_height, new_width), align_corners=align_corners)
    expected = reference_upsample.bilinear(x, (new_height, new_width), align_corners)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(14, 35), (5, 3), (7, 9)])
def test_resize_bilinear_equals_jax_image_without_antialiasing(size):
    def plain(x):
        return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)

    assert_same_function(lambda x: upsample.resize_bilinear(x, size), plain, random((2, 7, 9, 3)))


def test_resize_bilinear_keeps_the_dtype():
    assert upsample.resize_bilinear(jnp.ones((1, 2, 2, 1), jnp.bfloat16), (4, 4)).dtype == jnp.bfloat16


# Batch normalisation


@pytest.mark.parametrize("shape", [(3, 5, 7, 4), (2, 1, 1, 4), (6, 4)])
def test_batch_norm_equals_linen(shape):
    """But for the running variance, for which linen has the biased one."""
    x = 2 * random(shape) + 0.5
    linen = nn.BatchNorm(momentum=0.9, epsilon=1e-5)
    ours = norm.BatchNorm()
    variables = linen.init(jax.random.key(0), x, use_running_average=False)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x, train=True))
    params = {"scale": random((4,), 1), "bias": random((4,), 2)}
    stats = {"mean": random((4,), 3), "var": jnp.abs(random((4,), 4))}

    def run_ours(params, x):
        return ours.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])

    def run_linen(params, x):
        return linen.apply(
            {"params": params, "batch_stats": stats}, x, use_running_average=False, mutable=["batch_stats"]
        )

    moved, plain_moved = run_ours(params, x)[1], run_linen(params, x)[1]
    count = x.size // 4
    new = (plain_moved["batch_stats"]["var"] - 0.9 * stats["var"]) * count / (count - 1)
    plain_moved["batch_stats"]["var"] = 0.9 * stats["var"] + new
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), moved, plain_moved)
    assert_same_function(lambda p, x: run_ours(p, x)[0], lambda p, x: run_linen(p, x)[0], params, x)
    evaluated = ours.apply({"params": params, "batch_stats": stats}, x, train=False)
    plain = linen.apply({"params": params, "batch_stats": stats}, x, use_running_average=True)
    np.testing.assert_allclose(evaluated, plain, rtol=1e-5, atol=1e-5)


def test_batch_norm_without_mutable_statistics_leaves_them():
    x = random((2, 3, 3, 4))
    model = norm.BatchNorm()
    variables = model.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)  # initialising does not move them
    y = model.apply(variables, x, train=True)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-3)


def test_batch_norm_refuses_single_values_in_training():
    model = norm.BatchNorm()
    variables = model.init(jax.random.key(0), random((1, 1, 1, 4)), train=True)
    with pytest.raises(ValueError, match=r"more than one value a channel in training; received \[1, 1, 1, 4\]"):
        model.apply(variables, random((1, 1, 1, 4)), train=True, mutable=["batch_stats"])
    model.apply(variables, random((2, 1, 1, 4)), train=True, mutable=["batch_stats"])
    model.apply(variables, random((1, 1, 1, 4)), train=False)


def test_batch_norm_in_bfloat16_has_float32_statistics():
    x = (random((4, 33, 31, 2)) + 3).astype(jnp.bfloat16)
    model = norm.BatchNorm(dtype=jnp.bfloat16)
    variables = model.init(jax.random.key(0), x, train=True)
    y, moved = model.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, moved))} == {jnp.dtype(jnp.float32)}
    exact = np.asarray(x, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.1 * exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moved["batch_stats"]["var"], 0.9 + 0.1 * exact.var(0, ddof=1), rtol=1e-5)


def test_channel_sum_stays_exact_over_many_pixels():
    x = random((8, 128, 128, 3)) + 1
    # Adding 131,072 numbers one after the other is off by 5e-6; sums of sums stay near float32's 6e-8.
    np.testing.assert_allclose(norm._matmul_sum(x), np.asarray(x, np.float64).sum((0, 1, 2)), rtol=5e-7)


def test_batch_norm_statistics_are_those_of_the_global_batch():
    devices = jax.devices()
    if len(devices) < 8:
        pytest.skip(f"needs 8 devices, there are {len(devices)}")
    x = random((8, 5, 7, 4)) * jnp.arange(1, 9)[:, None, None, None]
    model = norm.BatchNorm()
    variables = model.init(jax.random.key(0), x, train=True)
    run = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"]))
    gradient = jax.jit(jax.grad(lambda x: (run(x)[0] ** 3).sum()))
    mesh = jax.sharding.Mesh(devices[:8], ("data",))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), run(sharded), run(x))
    np.testing.assert_allclose(gradient(sharded), gradient(x), **TOLERANCE)


# Convolution

SHAPES = {
    "pointwise": dict(features=5, kernel_size=(1, 1)),
    "pointwise with stride": dict(features=5, kernel_size=(1, 1), strides=(2, 2)),
    "pointwise with padding": dict(features=5, kernel_size=(1, 1), padding=((1, 1), (0, 2))),
    "depthwise": dict(features=6, kernel_size=(3, 3), feature_group_count=6),
    "depthwise with stride": dict(features=6, kernel_size=(3, 3), feature_group_count=6, strides=(2, 2)),
    "depthwise with dilation": dict(features=6, kernel_size=(3, 3), feature_group_count=6, kernel_dilation=(2, 3)),
    "depthwise, oblong": dict(features=6, kernel_size=(1, 5), feature_group_count=6, padding="VALID"),
    "dense": dict(features=5, kernel_size=(3, 3), strides=(2, 1), kernel_dilation=(2, 1)),
    "dilated by the image's size": dict(features=7, kernel_size=(3, 3), kernel_dilation=(9, 7)),
    "dilated beyond it, to few": dict(features=4, kernel_size=(5, 3), kernel_dilation=(4, 30)),
    "dilated beyond it, with stride": dict(features=7, kernel_size=(4, 5), kernel_dilation=(6, 3), strides=(2, 3)),
    "dilated beyond it, depthwise": dict(
        features=6, kernel_size=(3, 3), feature_group_count=6, kernel_dilation=(20, 8), padding=((20, 20), (10, 8))
    ),
    "dilated, all in the padding": dict(
        features=7, kernel_size=(2, 3), kernel_dilation=(24, 1), padding=((12, 12), (1, 1))
    ),
    "narrowing": dict(features=4, kernel_size=(3, 3)),
    "narrowing with dilation": dict(features=4, kernel_size=(3, 5), kernel_dilation=(2, 1)),
    "narrowing with other padding": dict(features=4, kernel_size=(3, 3), padding=((0, 2), (1, 1))),
    "grouped": dict(features=4, kernel_size=(3, 3), feature_group_count=2),
    "few pixels": dict(features=126, kernel_size=(5, 3)),
    "few pixels, strided and dilated": dict(
        features=40, kernel_size=(2, 3), strides=(2, 3), kernel_dilation=(3, 2), padding=((1, 2), (3, 0))
    ),
}


@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
def test_conv_equals_linen(fields):
    x = random((2, 9, 7, 6))
    linen = nn.Conv(**fields, bias_init=nn.initializers.normal())
    variables = linen.init(jax.random.key(0), x)
    ours = conv.Conv(**fields)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, variables)
    assert_same_function(ours.apply, linen.apply, variables, x)


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("size, dilation", [(1, 1), (3, 1), (3, 2)])
def test_convolve_equals_reference(size, dilation, groups):
    x, kernel = random((2, 9, 8, 6)), random((size, size, 6 // groups, 6), seed=1)
    pads = ((1, 0), (2, 1))
    expected = reference_convolution.convolution(x, kernel, (2, 1), pads, (dilation, dilation), groups)
    out = conv.convolve(
        x,
        kernel,
        (2, 1),
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    np.testing.assert_allclose(out, expected, **TOLERANCE)


@pytest.mark.parametrize("side", [1, 4, 9])
@pytest.mark.parametrize(("size", "strides", "rate"), [(4, (1, 1), 4), (3, (2, 2), 6), (2, (1, 1), 16)])
def test_an_image_smaller_than_its_kernel(size, strides, rate, side):
    """Where outer taps are left out, the padding of those that are left can be negative."""
    x, kernel = random((1, side, side, 3)), random((size, size, 3, 2), seed=1)
    arguments = dict(rhs_dilation=(rate, rate), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    found = conv.convolve(x, kernel, strides, "SAME", **arguments)
    np.testing.assert_allclose(found, jax.lax.conv_general_dilated(x, kernel, strides, "SAME", **arguments), atol=1e-5)
    depthwise = jnp.ones((size, size, 1, 3))
    found = conv.convolve(x, depthwise, strides, "SAME", feature_group_count=3, **arguments)
    wanted = jax.lax.conv_general_dilated(x, depthwise, strides, "SAME", feature_group_count=3, **arguments)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_conv_block_has_a_bias_only_without_normalisation():
    x = random((1, 4, 4, 3))
    plain = conv.ConvBlock(2, norm="none").init(jax.random.key(0), x, train=False)
    normalised = conv.ConvBlock(2).init(jax.random.key(0), x, train=False)
    assert set(plain["params"]["conv"]) == {"kernel", "bias"} and "batch_stats" not in plain
    assert set(normalised["params"]["conv"]) == {"kernel"}
    assert set(normalised["params"]["norm"]) == {"scale", "bias"}
    with pytest.raises(ValueError, match="'batch' or 'none'; received 'group'"):
        conv.ConvBlock(2, norm="group").init(jax.random.key(0), x, train=False)


# Which form runs where


def test_a_dilated_kernel_is_cut_to_what_sees_the_image():
    def lowered(size, rate):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lowered_for(
            "cuda",
            lambda x, k: conv.convolve(
                x, k, (1, 1), ((rate, rate), (rate, rate)), rhs_dilation=(rate, rate), dimension_numbers=numbers
            ),
            jnp.zeros((1, *size, 6)),
            jnp.zeros((3, 3, 6, 8)),
        )

    assert "tensor<1x1x6x8xf32>" in lowered((16, 16), 16)
    assert "tensor<1x3x6x8xf32>" in lowered((16, 17), 16)
    assert "tensor<1x1x6x8xf32>" not in lowered((16, 16), 15)


def test_accelerators_keep_the_plain_forms():
    x, depthwise, up = jnp.zeros((1, 8, 8, 6)), jnp.zeros((3, 3, 1, 6)), jnp.zeros((4, 4, 6, 3))

    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return conv.convolve(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=6)

    cases = [
        ("reduce_window", pool.max_pool, (x,), ["tpu"]),
        ("stablehlo.convolution", convolve, (x, depthwise), ["tpu", "cuda"]),
        ("stablehlo.convolution", lambda x, k: upsample.conv_transpose(x, k, 2), (x, up), ["tpu", "cuda"]),
    ]
    for operation, function, arguments, platforms in cases:
        for platform in platforms:
            assert operation in lowered_for(platform, function, *arguments)
        assert operation not in lowered_for("cpu", function, *arguments)
    assert "dot_general" in lowered_for("cpu", norm.channel_sum, x)
    assert "dot_general" not in lowered_for("tpu", norm.channel_sum, x)


def test_gradients_on_gpus_have_no_window_of_the_whole_image_and_no_scatter():
    x, up = jnp.zeros((2, 20, 20, 6)), jnp.zeros((2, 2, 6, 3))
    dense, depthwise = jnp.zeros((3, 3, 6, 5)), jnp.zeros((3, 3, 1, 6))

    def dilated(x, kernel):
        numbers, groups = ("NHWC", "HWIO", "NHWC"), 6 // kernel.shape[2]
        return conv.convolve(
            x, kernel, (1, 1), "SAME", rhs_dilation=(4, 4), dimension_numbers=numbers, feature_group_count=groups
        )

    def gradient_for(platform, function, *arguments):
        wanted = tuple(range(len(arguments)))
        return lowered_for(platform, jax.grad(lambda *a: (function(*a) ** 2).sum(), wanted), *arguments)

    for kernel in (dense, depthwise):
        steps_of_4 = "stride = [4, 4]"
        assert steps_of_4 in gradient_for("tpu", dilated, x, kernel)
        assert steps_of_4 not in gradient_for("cuda", dilated, x, kernel)
    assert "convolution" not in gradient_for("cuda", lambda x, k: upsample.conv_transpose(x, k, 2), x, up)
    for window, strides in (((2, 2), (2, 2)), ((3, 3), (2, 2))):
        pooled = functools.partial(pool.max_pool, window=window, strides=strides)
        assert "scatter" in gradient_for("tpu", pooled, x)
        assert "scatter" not in gradient_for("cuda", pooled, x)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
@pytest.mark.parametrize("groups", [1, 6])
def test_the_gradient_of_a_kernel_by_taps(groups, strides):
    x, kernel = random((2, 9, 11, 6)), random((3, 2, 6 // groups, 6), 1)
    pads, dilation = ((2, 1), (0, 3)), (2, 3)

    def plain(kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            pads,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    y, pull_back = jax.vjp(plain, kernel)
    gradient = random(y.shape, 2)
    shifts = conv._shifts(x, (3, 2), strides, pads, dilation)
    product = "nhwc,nhwf->cf" if groups == 1 else "nhwc,nhwc->c"
    found = conv._kernel_gradient_by_taps(product, shifts, kernel, gradient)
    np.testing.assert_allclose(found, pull_back(gradient)[0], rtol=1e-4, atol=1e-4)


def test_repeated_runs_give_the_same_bits():
    x = random((8, 64, 64, 16))
    model = norm.BatchNorm()
    variables = model.init(jax.random.key(0), x, train=True)

    def loss(x):
        y = model.apply(variables, upsample.conv_transpose(pool.max_pool(x), jnp.ones((2, 2, 16, 16)), 2), train=True)
        return (y**3).mean()

    gradient = jax.jit(jax.grad(loss))
    first = np.asarray(gradient(x))
    assert first.any()
    for _ in range(5):
        np.testing.assert_array_equal(gradient(x), first)


def test_batch_norm_of_a_few_nearly_equal_values():
    """As in the single cell of a pyramid: two images, one value each."""
    x = np.array([[3.0, -20.0], [3.001, -20.002]], np.float32).reshape(2, 1, 1, 2)
    exact = x.astype(np.float64)
    expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    y, _, var = norm.normalise(jnp.asarray(x), jnp.ones(2), jnp.zeros(2), 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-5)  # the mean is rounded to 1e-7 of 20
    np.testing.assert_allclose(var, exact.var(0).ravel(), rtol=1e-2)

"""Convolution and the convolution-norm-ReLU block.

`Conv` is `flax.linen.Conv` with its variables and arguments; only the function that convolves is ours, so
that pointwise and depthwise convolutions, and the gradients of those with few outputs, take a faster form on CPUs, and
the gradients of dilated ones on GPUs.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from segjax.core.sharding import row_parts, split_rows, splits, whole_kernel
from segjax.models.layers import winograd
from segjax.models.layers.norm import BatchNorm

PRODUCT = "product"
"""The name of a convolution's result for `jax.checkpoint`."""


def convolve(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: tuple[int, ...],
    padding: str | tuple[tuple[int, int], ...],
    lhs_dilation: tuple[int, ...] | None = None,
    rhs_dilation: tuple[int, ...] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """Convolution of an NHWC image with an HWIO kernel, in the form that suits the platform.

    Args and result are those of `jax.lax.conv_general_dilated`. Rows and columns of a dilated kernel that see nothing
    but padding are left out. On CPUs a 1x1 kernel becomes a matrix product, a depthwise kernel (one input channel a
    group, as many outputs as inputs) a sum of shifted products, and a convolution to no more pixels than channels one
    matrix product of all windows, since XLA's own reads such a kernel badly: VGG16's fc6 on 4x4 pixels takes 0.05
    instead of 4.4 s. The gradient of a kernel with few outputs is computed with the roles of image and
    result exchanged. On GPUs the gradient of a dilated kernel is a product for each of its taps.

    The result bears the name PRODUCT, by which `jax.checkpoint` finds it; that does nothing by itself.
    """

    result = _convolve(
        lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, precision
    )
    return checkpoint_name(result, PRODUCT)


def _convolve(
    lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, precision
):
    lhs, rhs = split_rows(lhs), whole_kernel(rhs)

    def plain(lhs, rhs):
        return split_rows(
            jax.lax.conv_general_dilated(
                lhs,
                rhs,
                window_strides,
                padding,
                lhs_dilation=lhs_dilation,
                rhs_dilation=rhs_dilation,
                dimension_numbers=dimension_numbers,
                feature_group_count=feature_group_count,
                precision=precision,
            )
        )

    rhs_dilation = (1, 1) if rhs_dilation is None else tuple(rhs_dilation)
    window = tuple((k - 1) * d + 1 for k, d in zip(rhs.shape[:2], rhs_dilation, strict=True))
    pads = padding
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads(lhs.shape[1:3], window, window_strides, padding)
    undilated = lhs_dilation is None or tuple(lhs_dilation) == (1, 1)
    if undilated and rhs_dilation != (1, 1):
        rhs, pads = _without_idle_taps(rhs, lhs.shape[1:3], window_strides, pads, rhs_dilation)
        padding, window = pads, tuple((k - 1) * d + 1 for k, d in zip(rhs.shape[:2], rhs_dilation, strict=True))
    height, width, group_size, features = rhs.shape
    no_pads = all(tuple(pad) == (0, 0) for pad in pads)

    def pointwise(lhs, rhs):
        lhs = lhs[:, :: window_strides[0], :: window_strides[1]]
        return jnp.dot(lhs, rhs[0, 0], precision=precision)

    def shifted(lhs, rhs):
        return _shifted_products(lhs, rhs[:, :, 0], window_strides, pads, rhs_dilation)

    def by_taps(lhs, gradient):
        shifts = _shifts(lhs, (height, width), window_strides, pads, rhs_dilation)
        product = "nhwc,nhwc->c" if depthwise else "nhwc,nhwf->cf"
        return _kernel_gradient_by_taps(product, shifts, kernel, gradient)

    def exchanged(lhs, gradient):
        return _kernel_gradient_exchanged(plain, kernel, lhs, gradient)

    def usual(lhs, rhs):
        return _with_own_gradient(plain, ways, lhs, rhs) if ways else plain(lhs, rhs)

    kernel = jax.ShapeDtypeStruct(rhs.shape, rhs.dtype)
    depthwise = undilated and group_size == 1 and feature_group_count == features == lhs.shape[-1] > 1
    dilated = undilated and rhs_dilation != (1, 1) and row_parts() == 1 and precision is None
    dilated = dilated and (depthwise or feature_group_count == 1)
    ways = {"cuda": by_taps, "rocm": by_taps} if dilated else {}
    if undilated and (height, width) == (1, 1) and feature_group_count == 1 and no_pads:
        return jax.lax.platform_dependent(lhs, rhs, cpu=pointwise, default=plain)
    sizes = [
        (size + sum(pad) - k) // s + 1
        for size, pad, k, s in zip(lhs.shape[1:3], pads, window, window_strides, strict=True)
    ]
    if depthwise:
        if row_parts() == 1:
            return jax.lax.platform_dependent(lhs, rhs, cpu=shifted, default=usual)
        # Shifted rows that lie on several devices would change places between them once for each tap of the kernel. Of
        # rows that are not split, XLA's partitioner (jax 0.10.2) adds the plain kernel's gradient up over the devices.
        return (plain if splits(min(lhs.shape[1], sizes[0])) else shifted)(lhs, rhs)

    def windows(lhs, rhs):
        return _windows_product(lhs, rhs, window_strides, pads, rhs_dilation, precision)

    if undilated and feature_group_count == 1 and 0 < lhs.shape[0] * math.prod(sizes) <= features:
        return jax.lax.platform_dependent(lhs, rhs, cpu=windows, default=plain)
    unit_steps = undilated and tuple(window_strides) == (1, 1) and feature_group_count == 1
    if unit_steps and (height, width) == (3, 3) and rhs_dilation == (1, 1) and precision is None:
        sides = tuple(map(tuple, pads))
        if winograd.suits(lhs, rhs, sides):
            filtered = functools.partial(winograd.convolve_3x3, pads=sides)
            return jax.lax.platform_dependent(lhs, rhs, cpu=filtered, default=plain)
    centred = all(tuple(pad) == (size // 2, size // 2) and size % 2 for pad, size in zip(pads, window, strict=True))
    if unit_steps and centred and features < min(32, lhs.shape[-1]):
        ways["cpu"] = exchanged
    return usual(lhs, rhs)


def convolve_in_loop(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """[N, H, W, C] with an odd window [k, k, C, F] to [N, H, W, F], zeros around the image: for the body of a scan.

    On CPUs it is one matrix product of all windows, which the gradient gathers anew: XLA is as fast forward, but takes
    six to ten times as long for the gradient where the convolution stands in a loop.
    """
    pads = tuple((size // 2, size // 2) for size in kernel.shape[:2])

    def plain(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    @jax.checkpoint
    def windows(image, kernel):
        return _windows_product(image, kernel, (1, 1), pads, (1, 1), None)

    return jax.lax.platform_dependent(image, kernel, cpu=windows, default=plain)


def _windows_product(x, kernel, strides, pads, dilation, precision):
    columns = jnp.concatenate(list(_shifts(x, kernel.shape[:2], strides, pads, dilation)), -1)
    return jnp.dot(columns, kernel.reshape(-1, kernel.shape[-1]), precision=precision)


def _without_idle_taps(kernel, size, strides, pads, dilation):
    """(kernel, padding) without the outer rows and columns of a kernel that see nothing but padding.

    In DeepLab's pyramid these are all but the centre where a rate is the size of the features or more. Their gradient,
    zero, comes from the slice.
    """
    kept, left_pads = [], []
    for taps, length, stride, (before, after), rate in zip(kernel.shape, size, strides, pads, dilation, strict=False):
        reach = (
            (length + before + after - (taps - 1) * rate - 1) // stride * stride
        )  # of a tap, from its first pixel on
        sees = [tap for tap in range(taps) if -reach <= tap * rate - before < length] or [0]
        kept.append(slice(sees[0], sees[-1] + 1))
        left_pads.append((before - sees[0] * rate, after - (taps - 1 - sees[-1]) * rate))
    return kernel[kept[0], kept[1]], tuple(left_pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_own_gradient(plain, ways, x, kernel):
    """`plain(x, kernel)`, whose gradient by the kernel is `ways[platform](x, gradient)` on the platforms of ways."""
    return plain(x, kernel)


def _with_own_gradient_forward(plain, ways, x, kernel):
    return plain(x, kernel), (x, kernel)


def _with_own_gradient_backward(plain, ways, saved, gradient):
    x, kernel = saved
    if "cpu" in ways:
        gradient = jax.lax.platform_dependent(gradient, cpu=_times_identity, default=lambda gradient: gradient)
    (d_x,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(gradient)

    def usual(x, gradient):
        return jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(gradient)[0]

    return d_x, jax.lax.platform_dependent(x, gradient, **ways, default=usual)


_with_own_gradient.defvjp(_with_own_gradient_forward, _with_own_gradient_backward)


def _times_identity(gradient):
    # The two convolutions below read it in two layouts, and in a densely connected network it is a long sum of what
    # later layers add. XLA's CPU compiler writes such a sum into each reader, whatever barrier stands between, but
    # it does not look through a product: a tenth of FC-DenseNet's step.
    identity = jnp.eye(gradient.shape[-1], dtype=gradient.dtype)
    return jnp.dot(gradient, identity, precision=jax.lax.Precision.HIGHEST)


def _kernel_gradient_exchanged(plain, kernel, x, gradient):
    """Of an odd window's convolution that keeps the image's size, to fewer channels than it reads.

    The entry at (a, b) sums x[p + (a, b)] * gradient[p] over the pixels p, which is gradient[q - (a, b)] * x[q]: that
    of a convolution of the gradient, turned. XLA's CPU kernel wants many channels in the second factor: 84 to 12 of
    them take 7 instead of 37 ms, 64 to 11 take 3 instead of 27.
    """
    turned = jax.ShapeDtypeStruct((*kernel.shape[:2], kernel.shape[3], kernel.shape[2]), kernel.dtype)
    (d_kernel,) = jax.linear_transpose(lambda kernel: plain(gradient, kernel), turned)(x)
    return d_kernel[::-1, ::-1].swapaxes(2, 3)


def _kernel_gradient_by_taps(product, shifts, kernel, gradient):
    """One product a tap, of what it sees and the gradient, with float32 sums.

    The usual way is a convolution whose window is the whole result, and whose steps are the dilation. XLA for GPUs (its
    `conv_rewriter`) has cuDNN compute a kernel's gradient at steps of 1 only, and hands such a window to the routine
    for images.
    """
    taps = [jnp.einsum(product, shift, gradient, preferred_element_type=jnp.float32) for shift in shifts]
    return jnp.stack(taps).reshape(kernel.shape).astype(kernel.dtype)


def _shifted_products(x, kernel, strides, pads, dilation):
    shifts = _shifts(x, kernel.shape, strides, pads, dilation)
    return sum(shifted * weights for shifted, weights in zip(shifts, kernel.reshape(-1, x.shape[-1]), strict=True))


def _shifts(x, window, strides, pads, dilation):
    """What each tap of a kernel sees, row by row: [N, H', W', C] each."""
    widths = [(0, 0, 0), *((before, after, 0) for before, after in pads), (0, 0, 0)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), widths)  # which cuts where a width is negative
    sizes = [
        (size - (k - 1) * d - 1) // s + 1
        for size, k, d, s in zip(x.shape[1:3], window, dilation, strides, strict=False)
    ]
    for i in range(window[0]):
        for j in range(window[1]):
            top, left = i * dilation[0], j * dilation[1]
            bottom = top + (sizes[0] - 1) * strides[0] + 1
            right = left + (sizes[1] - 1) * strides[1] + 1
            yield x[:, top : bottom : strides[0], left : right : strides[1]]


def _convolve_factory():
    return convolve


Conv = functools.partial(nn.Conv, conv_general_dilated_cls=_convolve_factory)
"""`flax.linen.Conv` that convolves with `convolve`."""


class ConvBlock(nn.Module):
    """Convolution, optional batch normalisation, activation. Its parts are named `conv` and `norm`.

    Attributes:
      features: output channels.
      kernel_size, strides, padding, dilation, groups: of the convolution. Padding is "SAME", "VALID", or one
        number for all sides, which at stride 2 differs from "SAME": PyTorch's networks pad all sides alike.
      norm: "batch" (the convolution then has no bias, since the normalisation would remove it) or "none".
      epsilon, momentum: of the normalisation, see `BatchNorm`.
      activation: function of an array, or None.
      kernel_init: of the convolution.
      dtype: compute dtype.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: Any = "SAME"
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    norm: str = "batch"
    epsilon: float = 1e-5
    momentum: float = 0.9
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    kernel_init: nn.initializers.Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to [N, H', W', features] of `dtype`."""
        if self.norm not in ("batch", "none"):
            raise ValueError(f"norm must be 'batch' or 'none'; received {self.norm!r}")
        x = Conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.dilation,
            feature_group_count=self.groups,
            use_bias=self.norm == "none",
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        if self.norm == "batch":
            x = BatchNorm(self.momentum, self.epsilon, self.dtype, name="norm")(x, train=train)
        return x if self.activation is None else self.activation(x)

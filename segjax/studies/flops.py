"""Floating-point operations of a traced function's matrix products and convolutions.

Counted in the jaxpr, and not by XLA's cost analysis of the compiled program, which knows nothing of what was handed to
a library (cuDNN, cuBLAS, oneDNN) and counts the body of a loop once.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

CUDNN_ATTENTION = "dot_product_attention_"
"""Begins the names of JAX's primitives of cuDNN's attention, fwd and bwd."""


def contraction_flops(jaxpr: Any) -> int:
    """Two for each multiplication with its addition, over all devices.

    Of forms that differ by platform the default one counts, which is the plain one, so that a faster way to the same
    result does not count as more work. What is multiplied with the zeros of padding or of a dilated input is not
    counted, as XLA does not; what is computed again (rematerialisation) is. Of a branch the most expensive one counts,
    and the body of a loop with an unknown number of rounds once.

    Args:
      jaxpr: `jax.jit(function).trace(...).jaxpr`, or a part of one.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return sum(_flops(equation) for equation in jaxpr.eqns)


def _flops(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if name.startswith(CUDNN_ATTENTION):
        return _of_attention(equation)
    if name == "cond":
        platforms = params.get("branches_platforms") or ()
        each = [contraction_flops(branch) for branch in params["branches"]]
        return each[platforms.index(None)] if None in platforms else max(each)
    times = 1
    if name == "scan":
        times = params["length"]
    elif name == "shard_map":  # its body is what one device does
        times = params["mesh"].size
    return times * sum(contraction_flops(inner) for inner in _inner(params.values()))


def _inner(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, ClosedJaxpr | Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner(value)


def _of_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * int(np.prod([left[axis] for axis in contracted], dtype=object)) * equation.outvars[0].aval.size


def _of_attention(equation: Any) -> int:
    """Of the two products of [N, L, heads, D] queries with S keys and values, and of their four gradients.

    What the backward pass computes again is not counted, as it is not where the weights are kept.
    """
    query, key, value = (variable.aval.shape for variable in equation.invars[:3])
    of_pair = query[-1] + value[-1]
    products = query[0] * query[1] * query[2] * key[1] * of_pair
    return 2 * products * (2 if "bwd" in equation.primitive.name else 1)


def _of_convolution(equation: Any) -> int:
    params, (left, right) = equation.params, (variable.aval.shape for variable in equation.invars)
    numbers = params["dimension_numbers"]
    batch, *_ = numbers.lhs_spec
    out_features, in_features, *window_axes = numbers.rhs_spec
    out_shape = equation.outvars[0].aval.shape
    products = left[batch] // params["batch_group_count"] * right[out_features] * right[in_features]
    for index, axis in enumerate(window_axes):
        products *= _taps(
            out_shape[numbers.out_spec[2 + index]],
            left[numbers.lhs_spec[2 + index]],
            right[axis],
            params["window_strides"][index],
            params["padding"][index][0],
            params["lhs_dilation"][index],
            params["rhs_dilation"][index],
        )
    return 2 * products


def _taps(out: int, size: int, window: int, stride: int, before: int, dilation: int, window_dilation: int) -> int:
    """How often, along one axis, a value of the window meets a value of the input, and no zero put in."""
    place = stride * np.arange(out)[:, None] + window_dilation * np.arange(window) - before
    return int(((place >= 0) & (place <= dilation * (size - 1)) & (place % dilation == 0)).sum())

"""Batch normalisation (Ioffe and Szegedy 2015) with float32 statistics of the global batch.

The statistics are plain reductions over N, H and W, so under `jax.jit` with a batch sharded over devices they
are those of the whole batch; no axis name is needed.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.core import sharding

FEW_VALUES = 4096
"""Up to so many values a channel the variance is summed in a second pass.

One pass subtracts the square of the mean from the mean of squares, which leaves no digits where a few values are
nearly equal: the averages over whole images in the pyramids of PSPNet and DeepLab v3, two in a batch of two.
"""


class BatchNorm(nn.Module):
    """Normalises each channel over all other axes, then scales and shifts it.

    Variables are those of `flax.linen.BatchNorm`: params `scale` and `bias`, batch_stats `mean` and `var`,
    all float32 [C]. As in the paper's Algorithm 2 (and in PyTorch, but not in linen) the running variance is the
    unbiased one, m / (m - 1) times that of a batch's m values.

    Attributes:
      momentum: weight of the old running statistics; 0.9 here is 0.1 in PyTorch.
      epsilon: added to the variance.
      dtype: of the output; statistics and the arithmetic are float32 whatever it is.
      scale_init: initialiser of `scale`.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[..., C] to [..., C] of `dtype`.

        With train=True the statistics of x are used and, where "batch_stats" is mutable, the running ones
        move; with train=False the running ones are used.

        Raises:
          ValueError: the running statistics would become those of single values, whose variance is 0.
        """
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        if not train:
            factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            y = (x.astype(jnp.float32) - running_mean.value) * factor + bias
            return y.astype(self.dtype)
        y, mean, var = normalise(x, scale, bias, self.epsilon)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            count = x.size // channels
            if count == 1:
                raise ValueError(
                    f"batch normalisation needs more than one value a channel in training; received {list(x.shape)} in"
                    f" {'/'.join(self.path)}. Give a larger data.batch_size, or a smaller training.accumulate"
                )
            running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
            unbiased = var * (count / (count - 1))
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x - mean) / sqrt(var + epsilon) * scale + bias over all axes but the last.

    Args:
      x: floating, [..., C].
      scale, bias: float32 [C].

    Returns:
      y float32 [..., C], and mean and biased variance, float32 [C], through which no gradient flows. The
      gradient is written out (Ioffe and Szegedy 2015, section 3) because it needs two sums over the pixels
      where differentiating the forward pass makes four.
    """
    return _normalise_forward(x, scale, bias, epsilon)[0]


def _normalise_forward(x, scale, bias, epsilon):
    count = x.size // x.shape[-1]
    centred = x.astype(jnp.float32)
    mean = channel_sum(centred) / count
    if count <= FEW_VALUES:
        var = channel_sum((centred - mean) ** 2) / count
    else:
        var = jnp.maximum(channel_sum(centred * centred) / count - mean * mean, 0.0)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (centred - mean) * (inverse * scale) + bias
    return (y, mean, var), (x, scale, mean, inverse)


def _normalise_backward(epsilon, saved, gradients):
    x, scale, mean, inverse = saved
    gradient = gradients[0]
    count = x.size // x.shape[-1]
    normalised = (x.astype(jnp.float32) - mean) * inverse
    d_bias = channel_sum(gradient)
    d_scale = channel_sum(gradient * normalised)
    d_x = (gradient - d_bias / count - normalised * (d_scale / count)) * (scale * inverse)
    return d_x.astype(x.dtype), d_scale, d_bias


normalise.defvjp(_normalise_forward, _normalise_backward)


def channel_sum(x: jax.Array) -> jax.Array:
    """Sum of a float32 [..., C] over all axes but the last: float32 [C]."""
    product = _sum_of_parts if sharding.row_parts() > 1 else _matmul_sum_by_device
    return jax.lax.platform_dependent(x, cpu=product, default=_plain_sum)


def _plain_sum(x):
    return x.sum(tuple(range(x.ndim - 1)))


def _matmul_sum_by_device(x):
    # XLA would add up the devices' products before their columns are summed, and send as many times the bytes.
    devices = sharding.mesh_size()
    if devices == 1 or x.shape[0] % devices:
        return _matmul_sum(x)
    return sharding.by_examples(lambda _, part: _matmul_sum(part)[None], (), x).sum(0)


def _matmul_sum(x):
    # Column by column first: one product over all pixels would add 100,000 numbers one after the other, at a
    # cost of two decimal digits.
    columns = x.shape[-2:] if x.ndim > 2 else (1, x.shape[-1])
    rows = x.reshape(-1, columns[0] * columns[1])
    ones = jnp.ones((1, rows.shape[0]), x.dtype)
    return jnp.dot(ones, rows, precision=jax.lax.Precision.HIGHEST).reshape(columns).sum(0)


def _sum_of_parts(x):
    # The same, column by column, where examples and rows lie on several devices and can't become one axis.
    summed = tuple(range(x.ndim - 2))
    ones = jnp.ones(x.shape[:-2], x.dtype)
    return jax.lax.dot_general(ones, x, ((summed, summed), ((), ())), precision=jax.lax.Precision.HIGHEST).sum(0)

"""Non-local block. Wang, Girshick, Gupta and He, "Non-local Neural Networks", CVPR 2018, arXiv:1711.07971.

Section 3 (equations 1, 3, 4 and 6) and figure 2. Deviations: the scores of the embedded Gaussian are divided by the
square root of their channels, as in the authors' code (github.com/facebookresearch/video-nonlocal-net) and in mmcv's
NonLocal2d; equation 3 has no such factor. Keys are not pooled (the subsampling of section 3.3).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.attention import attention, keep_map, weights
from segjax.models.layers.conv import Conv
from segjax.models.layers.norm import BatchNorm

FORMS = ("embedded_gaussian", "dot_product")


class NonLocalBlock(nn.Module):
    """x plus what each position finds at all others: z_i = W_z y_i + x_i, y_i = sum_j f(x_i, x_j) g(x_j) / C(x).

    Its parts are named `theta`, `phi`, `g`, `out` (W_z) and `norm`. The normalisation after W_z starts with a scale of
    zero, so that a new block is the identity (section 4.1). The weights f / C are kept as the map `weights`; those of
    the dot product may be negative and do not add up to 1.

    Attributes:
      reduction: channels of x for each one of theta, phi and g.
      form: "embedded_gaussian", a softmax (equation 3), or "dot_product", divided by the number of positions
        (equation 4), which takes memory and time that are linear in it.
      attention: False leaves of each sum the position itself, j = i, with the same parameters. The embedded Gaussian's
        one weight is then 1, so that theta and phi, though they are there, have no effect.
      dtype: compute dtype; scores, softmax and sums over positions are float32.
    """

    reduction: int = 2
    form: str = "embedded_gaussian"
    attention: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to the same shape, of `dtype`."""
        if self.form not in FORMS:
            raise ValueError(f"the form of a non-local block must be in {FORMS}; received {self.form!r}")
        batch, height, width, channels = x.shape
        inner = max(channels // self.reduction, 1)

        def project(name):
            small = nn.initializers.normal(0.01)  # as in the authors' code
            y = Conv(inner, (1, 1), kernel_init=small, dtype=self.dtype, name=name)(x)
            return y.reshape(batch, height * width, 1, inner)

        theta, phi, g = project("theta"), project("phi"), project("g")
        found = self._look_up(theta, phi, g)
        if self.attention:
            grid = (height, width)
            keep_map(self, "weights", lambda: self._weights(theta, phi).reshape(batch, 1, *grid, *grid))
        y = found.reshape(batch, height, width, inner)
        y = Conv(channels, (1, 1), use_bias=False, dtype=self.dtype, name="out")(y)
        y = BatchNorm(dtype=self.dtype, scale_init=nn.initializers.zeros, name="norm")(y, train=train)
        return x.astype(self.dtype) + y

    def _look_up(self, theta, phi, g):
        """y: [N, L, 1, D] each to [N, L, 1, D]."""
        if self.form == "embedded_gaussian":
            return attention(theta, phi, g) if self.attention else g
        if not self.attention:
            scores = jnp.einsum("nlhd,nlhd->nlh", theta, phi, preferred_element_type=jnp.float32)
            return g * scores[..., None].astype(g.dtype)
        # (theta phi^T) g = theta (phi^T g), whose matrix has the size of the channels.
        found = jnp.einsum("nshd,nshe->nhde", phi, g, preferred_element_type=jnp.float32) / g.shape[1]
        return jnp.einsum("nlhd,nhde->nlhe", theta, found.astype(g.dtype))

    def _weights(self, theta, phi):
        if self.form == "embedded_gaussian":
            return weights(theta, phi, scale=1 / math.sqrt(theta.shape[-1]))
        scores = jnp.einsum("nlhd,nshd->nhls", theta, phi, preferred_element_type=jnp.float32)
        return scores / phi.shape[1]

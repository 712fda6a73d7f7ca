"""Stochastic depth (Huang, Sun, Liu, Sedra and Weinberger, ECCV 2016, arXiv:1603.09382, section 3)."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class DropPath(nn.Module):
    """Drops the residual branch of whole examples in training, and scales what is left so that the mean stays.

    Scaling in training instead of at test time (equation 5) is the same network with other units.

    Attributes:
      rate: probability that an example loses the branch, 0 <= rate < 1.
    """

    rate: float

    def __post_init__(self):
        if not 0 <= self.rate < 1:
            raise ValueError(f"DropPath needs 0 <= rate < 1; received {self.rate}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, ...] to the same shape and dtype. Needs the "dropout" rng in training where `rate` is not 0."""
        if not train or self.rate == 0:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (x.shape[0], *(1,) * (x.ndim - 1)))
        return jnp.where(keep, x / (1 - self.rate), 0)

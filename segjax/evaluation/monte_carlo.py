"""Uncertainty by Monte Carlo dropout: several predictions of a network whose dropout stays on.

Gal and Ghahramani 2016, arXiv:1506.02142; for segmentation Kendall, Badrinarayanan and Cipolla, arXiv:1511.02680
(Bayesian SegNet), section 4. With p_t the class probabilities of sample t of T at a pixel, in nats:

  mean probability     p     = 1/T sum_t p_t                          the prediction
  predictive entropy   H[p]  = -sum_c p(c) ln p(c)                    all uncertainty, 0 to ln C
  mutual information   I     = H[p] - 1/T sum_t H[p_t]                what the samples disagree about, 0 to H[p]

The last is the information about the weights that the pixel's label would give: Houlsby et al. 2011, arXiv:1112.5745,
equation 2. It is high where the model has seen too little, while a noisy label is uncertain in every sample alike.
(Kendall et al. draw the variance of p_t instead.)

How dropout is on while everything else, BatchNorm above all, is as in evaluation: `apply_with_dropout` calls the model
with train=False and turns on each `flax.linen.Dropout` that is reached. So every model with dropout can be sampled, and
no model has an argument for it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

Sample = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Uncertainty(NamedTuple):
    """What samples say together; all float32, entropies in nats.

    Attributes:
      probabilities: [N, H, W, C], the mean of the samples; they sum to 1.
      entropy: [N, H, W], of the mean, from 0 to ln C.
      mutual_information: [N, H, W], from 0 to `entropy`.
    """

    probabilities: jax.Array
    entropy: jax.Array
    mutual_information: jax.Array


def build_monte_carlo(sample: Sample, samples: int) -> Callable[[Any, jax.Array, jax.Array], Uncertainty]:
    """Build `monte_carlo(variables, image, key) -> Uncertainty`, to be jitted as one program.

    The samples run one after the other and only running means are kept, so memory does not grow with their number.

    Args:
      sample: (variables, image [N, H, W, 3], key) -> probabilities float32 [N, H, W, C] of one random network.
      samples: how many; 50 in Kendall et al. With 1 the entropy is that of the one sample, the mutual information 0.
    Raises:
      ValueError: fewer than one sample.
    """
    if samples < 1:
        raise ValueError(f"samples must be 1 or more; received {samples}")

    def monte_carlo(variables, image, key):
        def step(means, count_and_key):
            count, key = count_and_key
            probabilities = sample(variables, image, key).astype(jnp.float32)
            # Running means, not sums: equal samples then have exactly their own mean, and no mutual information.
            new = (probabilities, entropy(probabilities))
            return jax.tree.map(lambda mean, x: mean + (x - mean) / count, means, new), None

        shape = jax.eval_shape(sample, variables, image, key).shape
        start = (jnp.zeros(shape, jnp.float32), jnp.zeros(shape[:-1], jnp.float32))
        counts = jnp.arange(1, samples + 1, dtype=jnp.float32)
        (mean, mean_entropy), _ = jax.lax.scan(step, start, (counts, jax.random.split(key, samples)))
        total = entropy(mean)
        # Entropy is concave, so the difference is not negative but for rounding.
        return Uncertainty(mean, total, jnp.maximum(total - mean_entropy, 0.0))

    return monte_carlo


def entropy(probabilities: jax.Array) -> jax.Array:
    """-sum_c p(c) ln p(c) in nats, with 0 ln 0 = 0: [..., C] to [...]."""
    return -jax.scipy.special.xlogy(probabilities, probabilities).sum(-1)


def apply_with_dropout(
    model: nn.Module, variables: Any, image: jax.Array, key: jax.Array, *, method: str | None = None
) -> jax.Array:
    """Logits of `model` as in evaluation (running BatchNorm statistics), but with its dropout on.

    Args:
      model: a linen module that drops by `flax.linen.Dropout` and is called with `train=False` in evaluation.
      key: of this sample.
      method: of the model; None is its call.
    """
    with nn.intercept_methods(_turn_on):
        return model.apply(variables, image, train=False, rngs={"dropout": key}, method=method)


def _turn_on(next_function, args, kwargs, context):
    dropout = context.module
    # The copy's own call comes through here too.
    if not isinstance(dropout, nn.Dropout) or dropout.deterministic is False:
        return next_function(*args, **kwargs)
    rngs = {dropout.rng_collection: dropout.make_rng(dropout.rng_collection)}
    return dropout.clone(parent=None, deterministic=False).apply({}, args[0], rngs=rngs)


def dropout_rates(model: nn.Module, image_shape: tuple[int, ...] = (1, 64, 64, 3)) -> list[float]:
    """The rate of each dropout that an evaluation of the model reaches; nothing is computed."""
    rates = []

    def record(next_function, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
        return next_function(*args, **kwargs)

    with nn.intercept_methods(record):
        image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    return rates

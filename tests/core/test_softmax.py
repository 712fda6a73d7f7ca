"""The softmax of evaluations: JAX's, but for what is not a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.core.softmax import softmax


def test_it_is_jaxs_for_numbers_and_impossible_classes():
    logits = jax.random.normal(jax.random.key(0), (3, 4, 5)).at[0, 0, 2].set(-jnp.inf)
    np.testing.assert_array_equal(softmax(logits), jax.nn.softmax(logits))


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf])
def test_what_is_not_a_number_stays_so(wrong):
    """After a ReLU and a product, where XLA for CPUs makes numbers of NaN."""
    kernel = jnp.ones((24, 11))

    def probabilities(x):
        return softmax(jnp.dot(jax.nn.relu(2 * x), kernel) + jnp.arange(11.0))

    features = jnp.ones((2, 32, 32, 24))
    assert np.isfinite(jax.jit(probabilities)(features)).all()
    found = jax.jit(probabilities)(features.at[1].set(wrong))
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()

"""Monte Carlo dropout against NumPy, and dropout with everything else as in evaluation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.evaluation.monte_carlo import apply_with_dropout, build_monte_carlo, dropout_rates, entropy

CLASSES = 4


def fast_jit(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


class Small(nn.Module):
    """A convolution, BatchNorm and two dropouts, one of them of whole channels."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, image, *, train=False):
        x = nn.Conv(8, (3, 3))(image)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        x = nn.Dropout(self.rate, broadcast_dims=(1, 2), deterministic=not train)(x)
        return nn.Conv(CLASSES, (1, 1), name="head")(x)


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(1), (2, 5, 7, 3))


@pytest.fixture(scope="module")
def variables(image):
    variables = fast_jit(Small().init)(jax.random.key(0), image)
    stats = variables["batch_stats"]["BatchNorm_0"]
    moved = {"mean": stats["mean"] + 0.5, "var": stats["var"] * 2}
    return {**variables, "batch_stats": {"BatchNorm_0": moved}}


def sample_of(model):
    return lambda variables, image, key: jax.nn.softmax(apply_with_dropout(model, variables, image, key))


def in_numpy(p):
    """(mean, entropy of it, mutual information) of samples [T, N, H, W, C], in float64."""
    p = np.asarray(p, np.float64)
    mean = p.mean(0)
    nats = lambda p: -(p * np.log(np.where(p > 0, p, 1))).sum(-1)  # noqa: E731
    return mean, nats(mean), nats(mean) - nats(p).mean(0)


@pytest.mark.parametrize("samples", [1, 7])
def test_maps_equal_numpy(samples, variables, image):
    key = jax.random.key(3)
    got = fast_jit(build_monte_carlo(sample_of(Small()), samples))(variables, image, key)
    one = fast_jit(sample_of(Small()))
    expected = in_numpy([one(variables, image, k) for k in jax.random.split(key, samples)])
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert (got.mutual_information >= 0).all()
    if samples == 1:
        np.testing.assert_array_equal(got.mutual_information, 0)
    else:
        assert (got.mutual_information > 1e-3).any()


def test_maps_of_certain_samples_by_hand():
    """Samples that are certain of different classes: all of the entropy is disagreement."""

    def sample(variables, image, key):
        return jax.nn.one_hot(jnp.where(image[..., 0] > 0, jax.random.randint(key, (), 0, 2), 0), 2)

    samples = 1000
    got = fast_jit(build_monte_carlo(sample, samples))(
        {}, jnp.array([-1.0, 1.0]).reshape(1, 1, 2, 1), jax.random.key(0)
    )
    np.testing.assert_allclose(got.entropy, got.mutual_information, atol=1e-6)
    np.testing.assert_allclose(got.probabilities[0, 0, 0], [1, 0])
    # A fair coin: the entropy of the mean is ln 2 but for the square of the deviation, 1/2 / sqrt(1000).
    np.testing.assert_allclose(got.entropy[0, 0], [0, np.log(2)], atol=0.01)


def test_without_dropout_there_is_no_mutual_information(variables, image):
    model = Small(rate=0.0)
    got = fast_jit(build_monte_carlo(sample_of(model), 5))(variables, image, jax.random.key(0))
    plain = jax.nn.softmax(fast_jit(model.apply)(variables, image))
    np.testing.assert_allclose(got.probabilities, plain, rtol=1e-6)
    np.testing.assert_allclose(got.entropy, entropy(plain), rtol=1e-5)
    np.testing.assert_array_equal(got.mutual_information, 0)


def test_only_dropout_is_on(variables, image):
    model = Small()
    sample = fast_jit(lambda image, key: apply_with_dropout(model, variables, image, key))
    got = sample(image, jax.random.key(5))
    np.testing.assert_array_equal(got, sample(image, jax.random.key(5)))
    assert not np.array_equal(got, sample(image, jax.random.key(6)))
    # BatchNorm uses its running statistics: an image does not depend on the others of its batch.
    np.testing.assert_array_equal(got[0], sample(image.at[1].set(0), jax.random.key(5))[0])
    # Half of the values are dropped and the others doubled, and the head is linear: the mean is the plain prediction.
    keys = jax.random.split(jax.random.key(7), 4000)
    many = lambda key: apply_with_dropout(model, variables, image, key)  # noqa: E731
    mean = fast_jit(lambda: jax.lax.map(many, keys).mean(0))()
    plain = fast_jit(model.apply)(variables, image)
    assert np.abs(mean - plain).max() < 0.1 * np.abs(plain).max()


def test_memory_does_not_grow_with_the_samples(variables, image):
    def size(samples):
        compiled = fast_jit(build_monte_carlo(sample_of(Small()), samples)).lower(variables, image, jax.random.key(0))
        return compiled.compile().memory_analysis().temp_size_in_bytes

    one_map = image.size // 3 * CLASSES * 4
    assert size(64) - size(4) < one_map


def test_rates_of_the_dropouts():
    assert dropout_rates(Small(rate=0.3), (1, 8, 8, 3)) == [0.3, 0.3]


def test_errors():
    with pytest.raises(ValueError, match="samples must be 1 or more; received 0"):
        build_monte_carlo(lambda *_: None, 0)

"""The hash table against Python's dict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.crf import hash_table
from tests.models.variables import fast_jit

build = fast_jit(hash_table.build)
build_and_find = fast_jit(lambda words, wanted: hash_table.find(hash_table.build(words)[0], wanted))
EXTREMES = np.array([-(2**31), -(2**31) + 1, -(2**16), -1, 0, 1, 2**16, 2**31 - 2, 2**31 - 1])


def first_of_each(keys):
    first = {}
    return np.array([first.setdefault(tuple(key), index) for index, key in enumerate(keys.tolist())])


@pytest.mark.parametrize(
    "keys",
    [
        np.random.default_rng(0).integers(-9, 9, (5000, 3)),  # few distinct ones, each many times
        np.random.default_rng(1).choice(EXTREMES, (5000, 3)),
        np.stack([np.arange(5000)] * 3, 1),  # all differ: the fullest table there is
        np.stack([np.arange(5000) << 16] * 3, 1),  # all differ, in high bits alone
        np.zeros((5000, 3), int),
        np.array([[7, -7, 0]]),
    ],
    ids=["few", "extreme", "distinct", "high-bits", "equal", "one"],
)
def test_equal_keys_share_the_first_of_them(keys):
    words = tuple(jnp.asarray(keys[:, i], jnp.int32) for i in range(3))
    table, owner = build(words)
    np.testing.assert_array_equal(owner, first_of_each(keys))
    assert (np.asarray(table.slots) != hash_table.EMPTY).sum() == len(np.unique(keys, axis=0))


def test_find_says_which_keys_are_there():
    rng = np.random.default_rng(2)
    keys, wanted = rng.integers(-5, 5, (300, 2)), rng.integers(-7, 7, (2000, 2))
    first = {}
    for index, key in enumerate(keys.tolist()):
        first.setdefault(tuple(key), index)
    expected = [first.get(tuple(key), -1) for key in wanted.tolist()]
    found = build_and_find(tuple(jnp.asarray(keys.T, jnp.int32)), tuple(jnp.asarray(wanted.T, jnp.int32)))
    assert -1 in expected
    np.testing.assert_array_equal(found, expected)


def test_keys_of_one_hash_all_find_a_place(monkeypatch):
    def same(words, size):
        return jnp.full(words[0].shape, size - 1, jnp.int32), jnp.full(words[0].shape, 1, jnp.int32)

    monkeypatch.setattr(hash_table, "_sequence", same)
    keys = np.random.default_rng(3).integers(0, 20, 60)
    _, owner = jax.jit(hash_table.build)((jnp.asarray(keys, jnp.int32),))
    np.testing.assert_array_equal(owner, first_of_each(keys[:, None]))

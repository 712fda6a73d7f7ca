"""The hash of parameters and the count of them."""

import hashlib

import jax.numpy as jnp
import numpy as np

from segjax.training.state import count_parameters, params_sha256


def test_hash_is_the_documented_one():
    params = {"b": {"kernel": jnp.arange(6, dtype=jnp.float32).reshape(2, 3)}, "a": jnp.ones(2)}
    text = b"a float32 2\n" + np.ones(2, "<f4").tobytes()
    text += b"b/kernel float32 2,3\n" + np.arange(6, dtype="<f4").tobytes()
    assert params_sha256(params) == hashlib.sha256(text).hexdigest()


def test_hash_of_a_scalar_is_the_documented_one():
    expected = hashlib.sha256(b"gamma float32 \n" + np.float32(2.5).tobytes()).hexdigest()
    assert params_sha256({"gamma": np.float32(2.5)}) == expected


def test_hash_sees_values_names_and_shapes():
    one = {"a": np.zeros((2, 3), np.float32)}
    hashes = {
        params_sha256(tree)
        for tree in (
            one,
            {"b": one["a"]},
            {"a": one["a"].reshape(3, 2)},
            {"a": one["a"] + 1e-30},
            {"a": one["a"] * -1},
        )
    }
    assert len(hashes) == 5
    assert params_sha256({"a": one["a"][:, ::-1]}) == params_sha256(one)


def test_count():
    assert count_parameters({"a": np.zeros((2, 3)), "b": {"c": np.zeros(())}}) == 7

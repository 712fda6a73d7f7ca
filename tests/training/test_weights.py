"""Weight files: names, round trip, and what is refused."""

import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from segjax.training.weights import load_weights, save_weights

VARIABLES = {
    "params": {"head": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}},
    "batch_stats": {"norm": {"mean": np.ones(3, np.float32)}},
}


def test_round_trip_under_the_documented_names(tmp_path):
    save_weights(tmp_path / "w.safetensors", VARIABLES)
    assert set(load_file(tmp_path / "w.safetensors")) == {"params/head/kernel", "batch_stats/norm/mean"}
    back = load_weights(tmp_path / "w.safetensors", VARIABLES)
    np.testing.assert_array_equal(back["params"]["head"]["kernel"], VARIABLES["params"]["head"]["kernel"])
    np.testing.assert_array_equal(back["batch_stats"]["norm"]["mean"], np.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_scalar_stays_one(tmp_path):
    variables = {"params": {"gamma": np.float32(2.5)}}
    save_weights(tmp_path / "w.safetensors", variables)
    gamma = load_weights(tmp_path / "w.safetensors", variables)["params"]["gamma"]
    assert gamma.shape == () and gamma == 2.5


def test_every_mismatch_is_listed(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"params/head/kernel": np.zeros((2, 4), np.float32), "extra": np.zeros(1, np.float32)}, path)
    with pytest.raises(ValueError, match="differs") as error:
        load_weights(path, VARIABLES)
    for text in (
        "extra: only in the file",
        "batch_stats/norm/mean: not in the file",
        "[2, 4] in the file, [2, 3] needed",
    ):
        assert text in str(error.value)


def test_nothing_in_a_file_is_executed(tmp_path):
    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    path = tmp_path / "w.safetensors"
    path.write_bytes(pickle.dumps(Bad()))
    with pytest.raises(ValueError, match="must be a safetensors file"):
        load_weights(path, VARIABLES)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(FileNotFoundError, match="neither"):
        load_weights(tmp_path / "none", VARIABLES)

"""The mesh and how states lie on it, on eight simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from segjax.core import sharding


def test_mesh_takes_the_devices_that_are_left():
    assert sharding.make_mesh().shape == {"data": 8, "fsdp": 1}
    assert sharding.make_mesh(2, -1).shape == {"data": 2, "fsdp": 4}
    assert sharding.make_mesh(-1, 8).shape == {"data": 1, "fsdp": 8}


def test_mesh_of_fewer_devices_takes_the_first():
    mesh = sharding.make_mesh(3, 1)
    assert mesh.shape == {"data": 3, "fsdp": 1}
    assert mesh.devices.ravel().tolist() == jax.devices()[:3]


@pytest.mark.parametrize(("data", "fsdp"), [(16, 1), (-1, 3), (3, -1), (-1, -1)])
def test_mesh_that_does_not_fit(data, fsdp):
    with pytest.raises(ValueError, match="-1"):
        sharding.make_mesh(data, fsdp)


def test_batch_size_error_names_the_allowed_values():
    mesh = sharding.make_mesh()
    sharding.check_batch_size("batch", 16, mesh)
    with pytest.raises(ValueError, match="received 12, nearest allowed: 8 or 16"):
        sharding.check_batch_size("batch", 12, mesh)
    with pytest.raises(ValueError, match="nearest allowed: 8$"):
        sharding.check_batch_size("batch", 3, mesh)
    with pytest.raises(ValueError, match="2 microbatches.*nearest allowed: 16"):
        sharding.check_batch_size("batch", 8, mesh, parts=2)


def test_state_sharding_splits_the_largest_axis_that_divides():
    mesh = sharding.make_mesh(2, 4)
    tree = {
        "kernel": np.zeros((3, 3, 64, 256)),
        "wide": np.zeros((1024, 30)),
        "odd": np.zeros((131, 127)),
        "bias": np.zeros(256),
        "scalar": np.zeros(()),
    }
    specs = {name: leaf.spec for name, leaf in sharding.state_sharding(mesh, tree).items()}
    assert specs["kernel"] == PartitionSpec(None, None, None, "fsdp")
    assert specs["wide"] == PartitionSpec("fsdp", None)
    assert specs["odd"] == specs["bias"] == specs["scalar"] == PartitionSpec()


def test_put_batch_splits_over_every_device():
    mesh = sharding.make_mesh(2, 4)
    batch = {
        "image": np.arange(16 * 2, dtype=np.float32).reshape(16, 2),
        "index": np.arange(16, dtype=np.int32),
    }
    put = sharding.put_batch(mesh, batch)
    assert {shard.data.shape for shard in put["image"].addressable_shards} == {(2, 2)}
    assert len(put["image"].addressable_shards) == 8
    np.testing.assert_array_equal(sharding.fetch(put)["image"], batch["image"])


def test_a_sum_over_a_split_batch_is_global():
    mesh = sharding.make_mesh()
    values = np.arange(8, dtype=np.float32)
    put = sharding.put_batch(mesh, {"x": values})["x"]
    assert float(jax.jit(jnp.sum)(put)) == 28


def test_half_set_process_environment_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.delenv("JAX_PROCESS_ID", raising=False)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ValueError, match="JAX_PROCESS_ID"):
        sharding.initialize_processes()

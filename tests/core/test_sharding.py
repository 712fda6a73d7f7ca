"""The mesh and how states lie on it, on eight simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from segjax.core import sharding


def test_mesh_takes_the_devices_that_are_left():
    assert sharding.make_mesh().shape == {"data": 8, "fsdp": 1, "spatial": 1}
    assert sharding.make_mesh(2, -1).shape == {"data": 2, "fsdp": 4, "spatial": 1}
    assert sharding.make_mesh(-1, 8).shape == {"data": 1, "fsdp": 8, "spatial": 1}
    assert sharding.make_mesh(-1, 2, 2).shape == {"data": 2, "fsdp": 2, "spatial": 2}
    assert sharding.make_mesh(1, 2, -1).shape == {"data": 1, "fsdp": 2, "spatial": 4}


def test_mesh_of_fewer_devices_takes_the_first():
    mesh = sharding.make_mesh(3, 1)
    assert mesh.shape == {"data": 3, "fsdp": 1, "spatial": 1}
    assert mesh.devices.ravel().tolist() == jax.devices()[:3]


@pytest.mark.parametrize(
    "sizes", [(16, 1), (-1, 3), (3, -1), (-1, -1), (2, 2, 4), (-1, 1, -1), (-1, 16), (-1, 1, 3), (0, 1)]
)
def test_mesh_that_does_not_fit(sizes):
    with pytest.raises(ValueError, match="-1"):
        sharding.make_mesh(*sizes)


def test_rows_are_not_split_over_processes(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="parallel.spatial must divide the 4 devices of a process.*received 8"):
        sharding.make_mesh(1, 1, 8)


def test_batch_size_error_names_the_allowed_values():
    mesh = sharding.make_mesh()
    sharding.check_batch_size("batch", 16, mesh)
    with pytest.raises(ValueError, match="received 12, nearest allowed: 8 or 16"):
        sharding.check_batch_size("batch", 12, mesh)
    with pytest.raises(ValueError, match="nearest allowed: 8$"):
        sharding.check_batch_size("batch", 3, mesh)
    with pytest.raises(ValueError, match="2 microbatches.*nearest allowed: 16"):
        sharding.check_batch_size("batch", 8, mesh, parts=2)


def test_a_batch_divides_over_what_splits_examples():
    mesh = sharding.make_mesh(1, 2, 4)
    sharding.check_batch_size("batch", 2, mesh)
    with pytest.raises(
        ValueError, match=r"multiple of the 2 devices .*data \* fsdp, 8 in all.*nearest allowed: 2 or 4"
    ):
        sharding.check_batch_size("batch", 3, mesh)


def test_rows_error_names_the_allowed_values():
    sharding.check_rows("crop", 37, sharding.make_mesh(8))
    mesh = sharding.make_mesh(2, 1, 4)
    sharding.check_rows("crop", 64, mesh)
    with pytest.raises(
        ValueError, match="multiple of parallel.spatial = 4 rows; received 37, nearest allowed: 36 or 40"
    ):
        sharding.check_rows("crop", 37, mesh)
    with pytest.raises(ValueError, match="label of a batch must have a multiple"):
        sharding.put_batch(mesh, {"label": np.zeros((2, 6, 8), np.uint8)})


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


def test_put_batch_splits_rows():
    mesh = sharding.make_mesh(2, 1, 4)
    batch = {
        "image": np.arange(2 * 8 * 3 * 3, dtype=np.float32).reshape(2, 8, 3, 3),
        "label": np.arange(2 * 8 * 3, dtype=np.uint8).reshape(2, 8, 3),
        "index": np.arange(2, dtype=np.int32),
        "parameters": {"label": np.zeros((2, 8), np.float32)},  # which has no rows, whatever its name
    }
    put = sharding.put_batch(mesh, batch)
    shapes = jax.tree.map(lambda array: {shard.data.shape for shard in array.addressable_shards}, put)
    assert shapes == {
        "image": {(1, 2, 3, 3)},
        "label": {(1, 2, 3)},
        "index": {(1,)},
        "parameters": {"label": {(1, 8)}},
    }
    jax.tree.map(np.testing.assert_array_equal, sharding.fetch(put), batch)
    clips = sharding.put_batch(mesh, {"image": np.zeros((2, 5, 8, 3, 3)), "label": np.zeros((2, 5, 8, 3), np.uint8)})
    assert clips["image"].sharding.shard_shape((2, 5, 8, 3, 3)) == (1, 5, 2, 3, 3)
    assert clips["label"].sharding.shard_shape((2, 5, 8, 3)) == (1, 5, 2, 3)


def test_rows_that_are_added_are_cut_again():
    mesh = sharding.make_mesh(1, 1, 4)
    batch = {"image": np.ones((1, 6, 2, 3), np.float32), "label": np.ones((1, 6, 2), np.uint8), "size": np.ones((1, 2))}
    filled = sharding.fill_rows(mesh, batch)
    assert filled["image"].shape == (1, 8, 2, 3) and (filled["image"][:, 6:] == 0).all()
    assert filled["label"].shape == (1, 8, 2) and (filled["label"][:, 6:] == 255).all()
    assert filled["size"] is batch["size"]
    cut = jax.jit(lambda batch: sharding.cut_rows(batch, 6))(sharding.put_batch(mesh, filled))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(cut), batch)


def test_layers_are_told_of_rows_that_are_split():
    asked = []
    function = lambda x: (asked.append(sharding.row_parts()), x)[1]  # noqa: E731
    jax.jit(function)(1.0)
    jax.jit(sharding.for_mesh(function, sharding.make_mesh(2, 1, 4)))(1.0)
    assert asked == [1, 4]


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


def test_a_pod_that_knows_no_others_is_refused(monkeypatch):
    for name in ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    monkeypatch.delenv("SEGJAX_DISTRIBUTED", raising=False)
    with pytest.raises(ValueError, match="a pod of an indexed Job must be told of the others"):
        sharding.initialize_processes()
    monkeypatch.setenv("SEGJAX_DISTRIBUTED", "0")
    sharding.initialize_processes()
    assert jax.process_count() == 1

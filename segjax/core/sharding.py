"""Devices: the mesh, how batches and states lie on it, and the processes of a run. The only file that names axes.

One program serves a laptop's CPU, eight GPUs and a TPU pod: a batch is split over every device, parameters are
copied to each (`data` axis) or split (`fsdp` axis; Rajbhandari et al. 2020, ZeRO stage 3), and XLA inserts the
communication. Statistics and losses are plain sums over the batch, so they are those of the global batch.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from segjax.core.batch import MEMORY
from segjax.core.liveness import COORDINATOR_TIMEOUT

DATA, FSDP = "data", "fsdp"
MIN_FSDP_SIZE = 2**14
"""Smaller arrays are copied to every device: gathering them would cost more than it saves."""


def initialize_processes() -> None:
    """Join the other processes of this run, where there are any; does nothing for a single process.

    `launch.sh --processes N` sets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Under SLURM,
    Open MPI, Kubernetes and on Cloud TPU, `jax.distributed.initialize` finds the same facts by itself; where
    this function does not see that there are several, SEGJAX_DISTRIBUTED=1 tells it.
    """
    environment = os.environ
    if "JAX_NUM_PROCESSES" in environment:
        missing = [k for k in ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID") if k not in environment]
        if missing:
            raise ValueError(f"JAX_NUM_PROCESSES is set, so {' and '.join(missing)} must be set too")
        jax.distributed.initialize(
            environment["JAX_COORDINATOR_ADDRESS"],
            int(environment["JAX_NUM_PROCESSES"]),
            int(environment["JAX_PROCESS_ID"]),
            cluster_detection_method="deactivate",  # SLURM's variables would leave each process one device
            heartbeat_timeout_seconds=COORDINATOR_TIMEOUT,
        )
    elif (
        environment.get("SEGJAX_DISTRIBUTED") == "1"
        or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1
        or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or ("KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment)
    ):
        jax.distributed.initialize(heartbeat_timeout_seconds=COORDINATOR_TIMEOUT)


def is_main_process() -> bool:
    """True in the one process that writes files and speaks."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Return when every process has come here; at once where there is one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """A [data, fsdp] mesh over the devices of all processes; one of the two may be -1 for what is left.

    A single process may use fewer devices than there are, the first ones, by naming both numbers.

    Raises:
      ValueError: data * fsdp is not the number of devices.
    """
    count = jax.device_count()
    if data == -1 and fsdp == -1:
        raise ValueError("only one of parallel.data and parallel.fsdp can be -1; received -1 for both")
    named = data * fsdp
    if data == -1:
        data = count // fsdp
    elif fsdp == -1:
        fsdp = count // data
    fewer = 0 < named < count and jax.process_count() == 1
    if data * fsdp != count and not fewer:
        divisors = [d for d in range(1, count + 1) if count % d == 0]
        raise ValueError(
            f"parallel.data * parallel.fsdp must be the number of devices, {count} (or fewer, in a single process);"
            f" received {data} * {fsdp}. Each can be one of {divisors}, or one of them -1"
        )
    devices = jax.devices()[: data * fsdp] if fewer else None
    return jax.make_mesh((data, fsdp), (DATA, FSDP), devices=devices, axis_types=(AxisType.Auto,) * 2)


def check_batch_size(name: str, batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raise ValueError unless a global batch, cut into `parts` microbatches, divides over the mesh's devices."""
    step = mesh.size * parts
    if batch_size % step:
        below, above = batch_size // step * step, -(-batch_size // step) * step
        allowed = " or ".join(str(value) for value in (below, above) if value)
        cut = f" times {parts} microbatches" if parts > 1 else ""
        raise ValueError(
            f"{name} is the global batch and must be a multiple of the {mesh.size} devices{cut};"
            f" received {batch_size}, nearest allowed: {allowed}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over every device."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def for_mesh(function: Callable, mesh: Mesh) -> Callable:
    """The same function, told of the mesh for which it is traced: what `by_examples` in it needs to know."""

    def traced(*args):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def mesh_size() -> int:
    """Devices for which the function that is being traced is meant, see `for_mesh`; 1 where that is not known."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def by_examples(function: Callable, shared: Any, *batched: Any) -> Any:
    """`function(shared, *batched)`, for one that treats the examples of its batched arguments, pytrees, one by one.

    Where a mesh is known (`for_mesh`), each device runs it on its own part of the batch, with all of `shared`; XLA
    would gather the whole batch on every device for a loop over examples.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(shared, *batched)
    leaves, structure = jax.tree.flatten(shared)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

    def part(arrays, *batched):
        every = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            every[place] = array
        return function(jax.tree.unflatten(structure, every), *batched)

    spec = PartitionSpec((DATA, FSDP))
    specs = (PartitionSpec(), *(spec for _ in batched))
    # The arrays are the same on every device, and their gradient is the sum over the devices.
    mapped = jax.shard_map(part, in_specs=specs, out_specs=spec, check_vma=False)
    return mapped([leaves[place] for place in places], *batched)


def microbatch_sharding(mesh: Mesh) -> NamedSharding:
    """For [microbatches, N, ...]: the second axis split over every device."""
    return NamedSharding(mesh, PartitionSpec(None, (DATA, FSDP)))


def state_sharding(mesh: Mesh, state: Any) -> Any:
    """For each array of a state: split along its largest axis that `fsdp` divides, else a copy on each device.

    It looks at shapes only, so a parameter, its momentum and its average always lie alike. But the states of clips,
    below MEMORY, lie as the batch does.
    """
    parts = mesh.shape[FSDP]

    def of(path, leaf):
        if any(getattr(key, "key", None) == MEMORY for key in path):
            return batch_sharding(mesh)
        shape = np.shape(leaf)
        axes = [axis for axis, length in enumerate(shape) if length % parts == 0]
        if parts == 1 or not axes or np.prod(shape) < MIN_FSDP_SIZE:
            return replicated(mesh)
        axis = max(axes, key=lambda a: shape[a])
        return NamedSharding(mesh, PartitionSpec(*(FSDP if a == axis else None for a in range(len(shape)))))

    return jax.tree_util.tree_map_with_path(of, state)


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of a batch -> the global batch on the devices. Returns before the copy has ended."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return jax.tree.map(lambda value: jax.make_array_from_process_local_data(sharding, value), dict(batch))


def fetch(tree: Any) -> Any:
    """Arrays on any devices, of any process -> NumPy arrays in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def of(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return jax.device_get(leaf)

    return jax.tree.map(of, tree)

"""Devices: the mesh, how batches and states lie on it, and the processes of a run. The only file that names axes.

One program serves a laptop's CPU, eight GPUs and a TPU pod: a batch is split over every device, parameters are
copied to each (`data` axis) or split (`fsdp` axis; Rajbhandari et al. 2020, ZeRO stage 3), the rows of an image that
is too large for one device lie on several (`spatial` axis), and XLA inserts the communication. Statistics and losses
are plain sums over the batch, so they are those of the global batch.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from segjax.core.batch import IGNORE_LABEL, MEMORY, NO_INSTANCE
from segjax.core.liveness import COORDINATOR_TIMEOUT

DATA, FSDP, SPATIAL = "data", "fsdp", "spatial"
EXAMPLES = (DATA, FSDP)
"""The axes over which the examples of a batch are split."""

ROWS = {"image": (-3, 0), "label": (-2, IGNORE_LABEL), "weight": (-2, 0), "instance": (-2, NO_INSTANCE)}
"""The arrays of a batch that have rows: where, and what rows are filled with that are no part of the image."""

MIN_FSDP_SIZE = 2**14
"""Smaller arrays are copied to every device: gathering them would cost more than it saves."""


def initialize_processes() -> None:
    """Join the other processes of this run, where there are any; does nothing for a single process.

    `launch.sh --processes N` and its JobSet for Kubernetes set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. Under SLURM, Open MPI and on Cloud TPU, `jax.distributed.initialize` finds the same facts by itself;
    where this function does not see that there are several, SEGJAX_DISTRIBUTED=1 tells it.

    Raises:
      ValueError: one of the three is missing, or all are in an indexed Job of Kubernetes, whose pods would each train
        alone, in one workdir; SEGJAX_DISTRIBUTED=0 says that this is meant.
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
    ):
        jax.distributed.initialize(heartbeat_timeout_seconds=COORDINATOR_TIMEOUT)
    elif "JOB_COMPLETION_INDEX" in environment and environment.get("SEGJAX_DISTRIBUTED") != "0":
        raise ValueError(
            "a pod of an indexed Job must be told of the others by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and"
            " JAX_PROCESS_ID, as in what launch.sh --jobset prints; received none of them. SEGJAX_DISTRIBUTED=0 lets"
            " each pod run alone"
        )


def is_main_process() -> bool:
    """True in the one process that writes files and speaks."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Return when every process has come here; at once where there is one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def make_mesh(data: int = -1, fsdp: int = 1, spatial: int = 1) -> Mesh:
    """A [data, fsdp, spatial] mesh over the devices of all processes; one of the three may be -1 for what is left.

    A single process may use fewer devices than there are, the first ones, by naming all numbers.

    Raises:
      ValueError: data * fsdp * spatial is not the number of devices, or rows would be split over processes.
    """
    count, processes = jax.device_count(), jax.process_count()
    sizes = {DATA: data, FSDP: fsdp, SPATIAL: spatial}
    left = [axis for axis, size in sizes.items() if size == -1]
    if len(left) > 1:
        names = " and ".join(f"parallel.{axis}" for axis in left)
        raise ValueError(f"only one of parallel.data, fsdp and spatial can be -1; received -1 for {names}")
    named = math.prod(size for size in sizes.values() if size != -1)
    if left:
        sizes[left[0]] = count // named
    total = math.prod(sizes.values())
    fewer = 0 < total < count and processes == 1 and not left
    if total != count and not fewer:
        divisors = [d for d in range(1, count + 1) if count % d == 0]
        raise ValueError(
            f"parallel.data * parallel.fsdp * parallel.spatial must be the number of devices, {count} (or fewer, in a"
            f" single process); received {data} * {fsdp} * {spatial}. Each can be one of {divisors}, or one of them -1"
        )
    if jax.local_device_count() % sizes[SPATIAL] and not fewer:
        raise ValueError(
            f"parallel.spatial must divide the {jax.local_device_count()} devices of a process, since a process reads"
            f" whole images; received {sizes[SPATIAL]}"
        )
    devices = jax.devices()[:total] if fewer else None
    axes = (DATA, FSDP, SPATIAL)
    shape = tuple(sizes[axis] for axis in axes)
    return jax.make_mesh(shape, axes, devices=devices, axis_types=(AxisType.Auto,) * len(axes))


def row_parts(mesh: Mesh | None = None) -> int:
    """Over how many devices the rows of an image are split: by a mesh, or by that of the program being traced.

    What is 1 where no mesh is known (`for_mesh`), so that a layer can ask for it whose usual form XLA can't split.
    """
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    return mesh.shape.get(SPATIAL, 1)


def example_parts(mesh: Mesh) -> int:
    """The number of devices among which examples are split."""
    return mesh.size // row_parts(mesh)


def check_batch_size(name: str, batch_size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raise ValueError unless a global batch, cut into `parts` microbatches, divides over what splits examples."""
    devices = example_parts(mesh)
    step = devices * parts
    if batch_size % step:
        below, above = batch_size // step * step, -(-batch_size // step) * step
        allowed = " or ".join(str(value) for value in (below, above) if value)
        cut = f" times {parts} microbatches" if parts > 1 else ""
        among = f" among which examples are split (data * fsdp, {mesh.size} in all)" if devices < mesh.size else ""
        raise ValueError(
            f"{name} is the global batch and must be a multiple of the {devices} devices{among}{cut};"
            f" received {batch_size}, nearest allowed: {allowed}"
        )


def check_rows(name: str, height: int, mesh: Mesh) -> None:
    """Raise ValueError unless rows divide over the devices of `spatial`."""
    parts = row_parts(mesh)
    if height % parts:
        below, above = height // parts * parts, -(-height // parts) * parts
        allowed = " or ".join(str(value) for value in (below, above) if value)
        raise ValueError(
            f"{name} must have a multiple of parallel.spatial = {parts} rows; received {height}, nearest allowed:"
            f" {allowed}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices that split examples: of any array with a row an example."""
    return NamedSharding(mesh, PartitionSpec(EXAMPLES))


def batch_shardings(mesh: Mesh, batch: Mapping[str, Any], before: int = 0) -> dict[str, Any]:
    """How each array of a batch lies: the examples split as in `batch_sharding`, and the rows of ROWS over `spatial`.

    before: axes before that of the examples, which are not split.
    """
    split = row_parts(mesh) > 1

    def of(path, leaf):
        axes = [None] * np.ndim(leaf)
        axes[before] = EXAMPLES
        name = path[0].key if len(path) == 1 else None
        if split and name in ROWS:
            axes[ROWS[name][0]] = SPATIAL
        return NamedSharding(mesh, PartitionSpec(*axes[: max(i for i, axis in enumerate(axes) if axis) + 1]))

    return jax.tree_util.tree_map_with_path(of, dict(batch))


def map_sharding(mesh: Mesh) -> NamedSharding:
    """Of [N, H, W, ...]: examples and rows split, as those of an image and a label."""
    return NamedSharding(mesh, PartitionSpec(EXAMPLES, SPATIAL) if row_parts(mesh) > 1 else PartitionSpec(EXAMPLES))


def split_batch(mesh: Mesh, batch: Mapping[str, Any], before: int = 0) -> dict[str, Any]:
    """In a program: the batch, to lie as `batch_shardings` says."""
    return jax.lax.with_sharding_constraint(dict(batch), batch_shardings(mesh, batch, before))


def splits(rows: int) -> bool:
    """In a program: whether each device has some of so many rows, as `split_rows` splits them."""
    return (row_parts() - 1) * -(-rows // row_parts()) < rows


def split_rows(array: jax.Array) -> jax.Array:
    """In a program: [N, H, ...] with its rows, and gradient's, where those of the image are split; else as it is.

    Few rows, of which some device would have none, are gathered.
    """
    if row_parts() == 1:
        return array
    spec = PartitionSpec(EXAMPLES, SPATIAL) if splits(array.shape[1]) else PartitionSpec(EXAMPLES)
    return jax.lax.with_sharding_constraint(array, spec)


def whole_kernel(kernel: jax.Array) -> jax.Array:
    """In a program: the kernel of a convolution, whole on each device where rows are split; else as it is.

    `fsdp` splits examples and kernels, and for a convolution of an image whose rows are split too with such a kernel
    XLA's partitioner (jax 0.10.2) makes a program that computes something else.
    """
    return jax.lax.with_sharding_constraint(kernel, PartitionSpec()) if row_parts() > 1 else kernel


def gather_rows(array: jax.Array) -> jax.Array:
    """In a program: [N, ...] with all rows on each device that has the example, where they are split; else as it is."""
    return jax.lax.with_sharding_constraint(array, PartitionSpec(EXAMPLES)) if row_parts() > 1 else array


def fill_rows(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with as many rows as divide over `spatial`; those that are added come last and are no part of it."""
    parts = row_parts(mesh)

    def of(name, array):
        if name not in ROWS or array.shape[ROWS[name][0]] % parts == 0:
            return array
        axis, filler = ROWS[name]
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, -array.shape[axis] % parts)
        return (jnp if isinstance(array, jax.Array) else np).pad(array, widths, constant_values=filler)

    return {name: of(name, array) for name, array in batch.items()}


def cut_rows(batch: Mapping[str, jax.Array], height: int) -> dict[str, jax.Array]:
    """In a program: the batch without the rows that `fill_rows` added to `height` of them."""
    return {
        name: jax.lax.slice_in_dim(array, 0, height, axis=array.ndim + ROWS[name][0]) if name in ROWS else array
        for name, array in batch.items()
    }


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


def examples_parts() -> int:
    """Over how many devices examples are split in the function that is being traced, see `for_mesh`."""
    return mesh_size() // row_parts()


def by_examples(function: Callable, shared: Any, *batched: Any) -> Any:
    """`function(shared, *batched)`, for one that treats the examples of its batched arguments, pytrees, one by one.

    Where a mesh is known (`for_mesh`), each device runs it on its own part of the batch, with all of `shared`; XLA
    would gather the whole batch on every device for a loop over examples. Rows that are split are gathered.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(shared, *batched)
    leaves, structure = jax.tree.flatten(shared)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

    def part(arrays, *batched):
        every = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            every[place] = array
        return function(jax.tree.unflatten(structure, every), *batched)

    spec = PartitionSpec(EXAMPLES)
    specs = (PartitionSpec(), *(spec for _ in batched))
    # The arrays are the same on every device, and their gradient is the sum over the devices.
    mapped = jax.shard_map(part, in_specs=specs, out_specs=spec, check_vma=False)
    return mapped([leaves[place] for place in places], *batched)


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
    """This process's part of a batch -> the global batch on the devices. Returns before the copy has ended.

    Raises:
      ValueError: rows do not divide over `spatial`; where they need not be all the image's, `fill_rows` adds some.
    """
    for name, (axis, _) in ROWS.items():
        if name in batch and row_parts(mesh) > 1:
            check_rows(f"the {name} of a batch", batch[name].shape[axis], mesh)
    batch = dict(batch)
    shardings = batch_shardings(mesh, batch)
    if jax.process_count() == 1:
        return jax.device_put(batch, shardings)
    return jax.tree.map(lambda value, lies: jax.make_array_from_process_local_data(lies, value), batch, shardings)


def fetch(tree: Any) -> Any:
    """Arrays on any devices, of any process -> NumPy arrays in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def of(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return jax.device_get(leaf)

    return jax.tree.map(of, tree)

"""From a config to the forecast of its training step, and to those of the changes that could make it fit."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from segjax import build
from segjax.core import program, sharding
from segjax.core.batch import MEMORY
from segjax.core.validation import validate
from segjax.data.pipeline import PREFETCH
from segjax.studies.forecast import Forecast
from segjax.training.loop import IN_FLIGHT
from segjax.training.state import TrainState, count_parameters, without_memory
from segjax.training.step import make_forward

FAST = {"xla_backend_optimization_level": 0}
"""How well the machine code is optimised changes nothing of what a program says of itself, and takes most time."""


def forecast(config: ConfigDict, mesh: Mesh) -> Forecast:
    """Of the step of a config on a mesh: compiled, not executed.

    Raises:
      ValueError, OSError: the model or the data set cannot be built, or the batch does not divide over the mesh.
    """
    compiled = build.lower_train_step(config, mesh).compile(FAST)
    text, memory = compiled.as_text(), program.memory(compiled)
    dataset = build.dataset_of_shapes(config)
    module = build.model(config, dataset.info)
    _, state, _ = build.state(config, module, mesh)
    batch = build.batch_shapes(config, dataset, mesh)
    held = held_bytes(state, batch)
    return Forecast(
        mesh=dict(mesh.shape),
        batch_size=config.data.batch_size,
        accumulate=config.training.accumulate,
        remat=config.training.remat,
        dtype=config.model.dtype,
        parameter_count=count_parameters(state.params),
        flops=mesh.size * program.flops(compiled, text),
        accessed=(compiled.cost_analysis() or {}).get("bytes accessed", 0.0),
        held={**held, "waiting batches": (PREFETCH + IN_FLIGHT) * held["batch"], "results": memory.results},
        temporary=memory.temporary,
        activations=activations(config, module, dataset.info, state, batch, mesh),
        collectives=tuple(program.collectives(text)),
    )


def held_bytes(state: TrainState, batch: Any) -> dict[str, int]:
    """Part of the state and the batch -> its bytes on one device; ShapeDtypeStructs with shardings."""

    def size(tree):
        shards = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)]
        return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in shards)

    counters = (state.step, state.nonfinite_count, state.nonfinite_step, state.nonfinite_parts)
    parts = {
        "parameters": size(state.params),
        "optimizer": size(state.opt_state),
        "average of the parameters": size(state.ema),
        "statistics": size(without_memory(state.model_state)),
        "states of clips": size(state.model_state.get(MEMORY, {})),
        "counters": size(counters),
        "batch": size(batch),
    }
    return {name: value for name, value in parts.items() if value or name in ("parameters", "optimizer")}


def activations(config: ConfigDict, module, info, state: TrainState, batch: Any, mesh: Mesh) -> int:
    """Bytes that the gradient of one device's part of a microbatch keeps of the forward pass.

    They are counted before XLA sees them, which may keep less; where rows are split, as an equal share of an image's.
    """
    rows = sharding.row_parts(mesh)
    parts = mesh.size // rows * config.training.accumulate
    forward = make_forward(
        module,
        build.loss(config, info)[0],
        auxiliary_weight=config.loss.auxiliary,
        mask_loss=build.mask_loss(config, info),
        remat=config.training.remat,
    )
    key = jax.random.key(config.seed)
    seen = jax.eval_shape(build.augment(config, info), batch, key)
    names = ("image", "label", "weight", "instance", "reset")

    def part(leaf):
        return jax.ShapeDtypeStruct((leaf.shape[0] // parts, *leaf.shape[1:]), leaf.dtype)

    one = {name: part(seen[name]) for name in names if name in seen}
    model_state = {
        name: jax.tree.map(part, tree) if name == MEMORY else tree for name, tree in state.model_state.items()
    }
    return program.kept_for_gradient(forward, state.params, model_state, one, key) // rows


def alternatives(config: ConfigDict, mesh: Mesh, found: Forecast, limit: int) -> Iterator[tuple[str, Forecast]]:
    """(what to set, its forecast) of what could make a step that is too large fit into `limit` bytes.

    The largest batch that fits, the same batch in as few microbatches, rematerialisation, parameters split over all
    devices, and where not even the smallest batch fits the rows of images split over all. Each was compiled; a change
    that turned out too large is given too.
    """

    def changed(devices: Mesh = mesh, **changes) -> Forecast:
        other = config.copy_and_resolve_references()
        for name, value in changes.items():
            other[name.split("__")[0]][name.split("__")[1]] = value
        validate(other)
        return forecast(other, devices)

    whole, accumulate = config.data.batch_size, config.training.accumulate
    rows = sharding.row_parts(mesh)
    least = 2 if config.data.augment.mix else 1  # examples that are mixed
    unit = mesh.size // rows * accumulate
    unit *= -(-least // unit)
    batch, best = whole, found
    if whole > unit:
        lowest = (unit, changed(data__batch_size=unit))
        batch, best = largest_batch(changed, unit, lowest, (whole, found), limit)
        yield f"--config.data.batch_size={batch}", best
    if config.training.remat != "elementwise":
        yield "--config.training.remat=elementwise", changed(training__remat="elementwise")
    if best.total <= limit and not config.data.clip.carry:
        examples = whole * rows // mesh.size
        # A microbatch no larger than that of the batch that fits; the sum of gradients takes memory too.
        several = [
            k for k in range(accumulate + 1, examples + 1) if examples % k == 0 and whole * accumulate <= batch * k
        ]
        for parts in several:
            other = changed(training__accumulate=parts)
            yield f"--config.training.accumulate={parts}", other
            if other.total <= limit:
                break
    if mesh.size > 1 and config.parallel.fsdp == rows == 1:
        split = sharding.make_mesh(1, mesh.size)
        yield f"--config.parallel.data=1 --config.parallel.fsdp={mesh.size}", changed(split)
    height = config.data.crop_size[0]
    if mesh.size > rows and best.total > limit and height and height % mesh.size == 0:
        split = sharding.make_mesh(1, 1, mesh.size)
        examples = accumulate * -(-least // accumulate)
        small = changed(split, data__batch_size=examples)
        parallel = f"--config.parallel.data=1 --config.parallel.spatial={mesh.size}"
        yield f"{parallel} --config.data.batch_size={examples}", small


def largest_batch(changed, unit: int, low, high, limit: int) -> tuple[int, Forecast]:
    """(batch, forecast): the largest multiple of `unit` whose step fits, or the smallest where none does.

    Args:
      low, high: (batch, forecast) of the smallest and of one that does not fit. Memory grows about linearly with the
        batch, so that few are compiled in between.
    """
    while low[1].total <= limit and high[0] - low[0] > unit:
        slope = (high[1].total - low[1].total) / (high[0] - low[0])
        guess = low[0] + int((limit - low[1].total) / slope) // unit * unit if slope > 0 else high[0] - unit
        guess = min(max(guess, low[0] + unit), high[0] - unit)
        other = (guess, changed(data__batch_size=guess))
        low, high = (other, high) if other[1].total <= limit else (low, other)
    return low

"""From the config of a study's run to what its plan says of it: the cost of a training step, the machine's speed."""

import math
import time

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from segjax import build
from segjax.core import program, sharding
from segjax.studies.plan import Cost


def devices_per_run(config: ConfigDict) -> int:
    """As many as config.parallel names; one where it takes what there is."""
    return math.prod(max(1, config.parallel[axis]) for axis in config.parallel)


def step_cost(config: ConfigDict) -> Cost:
    """Of the compiled training step, which is not executed: its FLOPs over all devices, and its bytes on one.

    The bytes are those of its arguments (state and batch), its temporary buffers and its results, those that lie in
    an argument's place not counted again. Not among them is what the framework or the process needs besides.

    Raises:
      ValueError, OSError: the model or the data set cannot be built.
    """
    mesh = sharding.make_mesh(**{axis: max(1, config.parallel[axis]) for axis in config.parallel})
    compiled = build.lower_train_step(config, mesh).compile()
    return Cost(mesh.size * program.flops(compiled), program.memory(compiled).total)


def matrix_rate(dtype: str = "float32", size: int = 2048, products: int = 4) -> float:
    """FLOP/s of the first device: the best of three chains of products of square matrices.

    Of random numbers, since a card that its power limits multiplies constants faster.
    """
    multiply = jax.jit(lambda a, b: a @ b)
    a, b = (jax.random.normal(jax.random.key(seed), (size, size), dtype) for seed in range(2))
    b /= jnp.sqrt(size).astype(dtype)  # so that each product is of the size of the one before
    multiply(a, b).block_until_ready()
    times = []
    for _ in range(3):
        before = time.perf_counter()
        for _ in range(products):
            a = multiply(a, b)
        a.block_until_ready()
        times.append(time.perf_counter() - before)
    return 2 * size**3 * products / min(times)

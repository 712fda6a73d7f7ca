"""The state of a training: all that a step changes, and nothing else."""

import hashlib
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from segjax.core.batch import MEMORY
from segjax.training.optim import path_name


@flax.struct.dataclass
class TrainState:
    """Everything that is saved, restored and updated.

    Attributes:
      step: int32 scalar, steps that have been taken, skipped ones included.
      params: the model's parameters, float32.
      model_state: the model's other collections, e.g. {"batch_stats": ...}, and MEMORY where the states of clips are
        carried from step to step.
      opt_state: the optimizer's.
      ema: moving average of params, or {} where it is off.
      nonfinite_count: int32 scalar, updates that were left out since loss or gradient was not finite.
      nonfinite_step: int32 scalar, the first such step, after which all is frozen (on_nonfinite=stop), or -1.
      nonfinite_parts: bool [1 + parts], what was not finite at that step: the loss, then the gradient of each
        top-level part of the parameters in sorted order.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any
    nonfinite_count: jax.Array
    nonfinite_step: jax.Array
    nonfinite_parts: jax.Array

    def eval_variables(self) -> dict[str, Any]:
        """What the model is evaluated with: the average of the parameters where there is one; no states of clips.

        The running statistics of batch normalisation are those of the parameters themselves, not of their average.
        """
        return {"params": self.ema or self.params, **without_memory(self.model_state)}


def create_state(variables: Any, direction: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """The state before the first step, from a model's variables."""
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=direction.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else {},
        nonfinite_count=jnp.zeros((), jnp.int32),
        nonfinite_step=jnp.full((), -1, jnp.int32),
        nonfinite_parts=jnp.zeros(1 + len(params), bool),
    )


def without_memory(model_state: Any) -> dict[str, Any]:
    """The collections that belong to the model, not to the clips of the last step."""
    return {name: tree for name, tree in model_state.items() if name != MEMORY}


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(path, array) of each leaf, sorted by path."""
    return sorted((path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))


def params_sha256(params: Any) -> str:
    """SHA-256 of the parameters in a canonical order, so that anybody can compare two runs from outside.

    For each parameter in order of its path (`encoder/conv/kernel`, compared as Unicode text) the hash takes the
    UTF-8 bytes of `path dtype shape` followed by a newline, e.g. `head/kernel float32 3,3,16,11`, then the
    array's bytes in C order, little-endian.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(named_leaves(params), key=lambda item: item[0]):
        array = np.asarray(leaf)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {array.dtype.name} {','.join(map(str, array.shape))}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def count_parameters(params: Any) -> int:
    """Number of scalars in all parameters."""
    return sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(params))

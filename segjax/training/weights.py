"""A model's variables as one safetensors file: arrays under flat names, and nothing that is ever executed.

`params/encoder/conv1/kernel` and `batch_stats/encoder/norm1/mean` are the names, as in the variables of linen.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from segjax.training.optim import path_name
from segjax.training.state import named_leaves


def save_weights(path: str | Path, variables: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write variables ({"params": ..., "batch_stats": ...}) atomically, with text metadata."""
    path = Path(path)
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in named_leaves(jax.device_get(variables))}
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(arrays, temporary, dict(metadata or {}))
    temporary.replace(path)


def load_weights(path: str | Path, target: Mapping[str, Any]) -> dict[str, Any]:
    """Read a file of `save_weights` into the structure of `target`.

    Args:
      target: variables, or their ShapeDtypeStructs.
    Returns:
      NumPy arrays in the tree of target, with its dtypes.
    Raises:
      FileNotFoundError; ValueError: not such a file, or names or shapes that do not fit, all of them listed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights must be a .safetensors file or a workdir; {path} is neither")
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file; it can't be read: {error}") from error
    wanted = dict(named_leaves(target))
    problems = [f"{name}: only in the file" for name in sorted(arrays.keys() - wanted.keys())]
    problems += [f"{name}: not in the file" for name in sorted(wanted.keys() - arrays.keys())]
    problems += [
        f"{name}: {list(arrays[name].shape)} in the file, {list(wanted[name].shape)} needed"
        for name in sorted(arrays.keys() & wanted.keys())
        if arrays[name].shape != tuple(wanted[name].shape)
    ]
    if problems:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(
            f"{path} must have the variables of the model that the config describes; it differs in\n  "
            + "\n  ".join(problems[:20])
            + more
        )
    return jax.tree_util.tree_map_with_path(
        lambda key, leaf: arrays[path_name(key)].astype(leaf.dtype, copy=False), target
    )

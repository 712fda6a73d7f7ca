"""From arrays under another framework's names to our variables, by rules, with a report of every key.

A rule maps the name of a module, `backbone.layer1.0.conv1`, to the path of ours, `backbone/layer1_0/conv1/conv`.
What a module holds follows from the PyTorch names of its arrays:

| theirs          | ours                                                                                       |
|-----------------|--------------------------------------------------------------------------------------------|
| `weight`, 1-D   | `scale` of a normalisation, or `slope` of a PReLU                                          |
| `weight`, 2-D   | `kernel` of a dense layer, transposed; or, reshaped, of the convolution made of it         |
| `weight`, 2-D   | `embedding`, as it is                                                                      |
| `weight`, 4-D   | `kernel` of a convolution: [O, I, H, W] -> [H, W, I, O]                                    |
| `weight`, 4-D   | of a transposed convolution: [I, O, H, W] -> [H, W, I, O], turned by 180 degrees           |
| `bias`          | `bias`                                                                                     |
| `running_mean`  | `mean` among the batch_stats                                                               |
| `running_var`   | `var` among the batch_stats                                                                |

Any other array is a parameter of the module itself, such as a table of relative positions: rules map its whole name to
the path of ours, and one of two dimensions is transposed like a kernel, unless it is an `embedding`.

A `bias` of a convolution that has none here because a normalisation follows is subtracted from that one's mean, which
gives the same results; the report says so.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LEAVES = {
    "weight": ("params/{}/kernel", "params/{}/scale", "params/{}/slope", "params/{}/embedding"),
    "bias": ("params/{}/bias",),
    "running_mean": ("batch_stats/{}/mean",),
    "running_var": ("batch_stats/{}/var",),
}
"""What the arrays of PyTorch's layers may be called here, in a module's path."""


class Rule(NamedTuple):
    r"""How modules of another framework are called here.

    Attributes:
      pattern: regular expression that the module's whole name must match; for an array that is not among LEAVES, the
        array's.
      path: the path of ours, with `\1` for the pattern's groups; None leaves the module out on purpose. Several share
        the array's rows equally, as query, key and value do in PyTorch's MultiheadAttention.
      transposed: it is a transposed convolution.
    """

    pattern: str
    path: str | tuple[str, ...] | None
    transposed: bool = False


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of each key of a file and of each variable of the model.

    Attributes:
      loaded: (their key, our path) that were taken over.
      reshaped: those of them whose number of dimensions changed (a dense layer that became a convolution).
      folded: (their key, our path): biases that were subtracted from a mean.
      skipped: (their key, why) that were left out on purpose.
      unused: (their key, why) that a rule knows and that found no place: the model has no such variable, or it was
        loaded from another key already.
      unknown: their keys that no rule knows.
      missing: our paths for which the file has nothing.
      mismatched: (their key, our path, their shape in our order, our shape).
    """

    loaded: tuple[tuple[str, str], ...] = ()
    reshaped: tuple[tuple[str, str], ...] = ()
    folded: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    unused: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, str, tuple[int, ...], tuple[int, ...]], ...] = ()


def convert(
    arrays: Mapping[str, np.ndarray], target: Mapping[str, Any], rules: Sequence[Rule]
) -> tuple[dict[str, np.ndarray], Report]:
    """Map arrays to the variables of a model.

    Args:
      arrays: another framework's arrays by name, e.g. a PyTorch state dict as NumPy arrays.
      target: {our path: array or ShapeDtypeStruct} with paths such as `params/backbone/conv1/conv/kernel`.
      rules: the first that matches a module's name counts.
    Returns:
      {our path: array in our layout, of the target's dtype} of what could be taken over, and the report. Nothing
      is raised for what does not fit: the report says it.
    """
    found, loaded, reshaped, folded, skipped, unused, unknown, mismatched = {}, [], [], [], [], [], [], []
    for key, array in arrays.items():
        module, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            skipped.append((key, "a counter of PyTorch's BatchNorm, not used here"))
            continue
        rule, paths = _our_module(module if leaf in LEAVES else key, rules)
        if rule is None:
            unknown.append(key)
            continue
        if paths is None:
            skipped.append((key, "left out by the conversion"))
            continue
        if len(paths) > 1 and (array.ndim == 0 or len(array) % len(paths)):
            unused.append(
                (key, f"its rows are not a multiple of the {len(paths)} that share them: {list(array.shape)}")
            )
            continue
        for path, part in zip(paths, np.split(array, len(paths)) if len(paths) > 1 else [array], strict=True):
            ours = _our_leaf(path, leaf, target)
            mean = f"batch_stats/{path.removesuffix('/conv')}/norm/mean"
            if ours is None and leaf == "bias" and path.endswith("/conv") and mean in target:
                folded.append((key, mean))
                continue
            if ours is None or ours in found:
                why = f"the model has no {path} for it" if ours is None else f"{ours} is loaded already"
                unused.append((key, why))
                continue
            wanted = target[ours]
            value = part if ours.endswith("/embedding") else _our_layout(part, tuple(wanted.shape), rule.transposed)
            if value.shape != tuple(wanted.shape):
                mismatched.append((key, ours, value.shape, tuple(wanted.shape)))
                continue
            if value.ndim != array.ndim:
                reshaped.append((key, ours))
            loaded.append((key, ours))
            found[ours] = np.asarray(value, wanted.dtype, order="C")
    for key, mean in folded:
        if mean not in found or found[mean].shape != arrays[key].shape:
            unused.append((key, f"{mean}, from which it is to be subtracted, is not loaded or has another shape"))
        else:
            found[mean] = found[mean] - arrays[key].astype(found[mean].dtype)
    folded = [pair for pair in folded if pair[0] not in dict(unused)]
    missing = sorted(set(target) - set(found) - {path for _, path, *_ in mismatched})
    report = Report(*map(tuple, (loaded, reshaped, folded, skipped, unused, unknown, missing, mismatched)))
    return found, report


def same_names(arrays: Mapping[str, np.ndarray], target: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], Report]:
    """As `convert`, for arrays that bear our names and have our layout."""
    shapes = {key: tuple(target[key].shape) for key in arrays if key in target}
    found = {k: np.asarray(arrays[k], target[k].dtype, order="C") for k, s in shapes.items() if arrays[k].shape == s}
    return found, Report(
        loaded=tuple((key, key) for key in found),
        unknown=tuple(sorted(set(arrays) - set(target))),
        missing=tuple(sorted(set(target) - set(arrays))),
        mismatched=tuple((key, key, arrays[key].shape, s) for key, s in shapes.items() if key not in found),
    )


def _our_module(module: str, rules: Sequence[Rule]) -> tuple[Rule | None, tuple[str, ...] | None]:
    for rule in rules:
        match = re.fullmatch(rule.pattern, module)
        if match:
            paths = (rule.path,) if isinstance(rule.path, str) else rule.path
            return rule, None if paths is None else tuple(match.expand(path) for path in paths)
    return None, None


def _our_leaf(path: str, leaf: str, target: Mapping[str, Any]) -> str | None:
    candidates = (name.format(path) for name in LEAVES.get(leaf, ("params/{}",)))
    return next((name for name in candidates if name in target), None)


def _our_layout(array: np.ndarray, shape: tuple[int, ...], transposed: bool) -> np.ndarray:
    if array.ndim == 2 and len(shape) == 2:
        return array.T
    if array.ndim == 2 and len(shape) == 4 and array.size == np.prod(shape):
        height, width, inputs, outputs = shape  # PyTorch flattens [C, H, W]
        array = array.reshape(outputs, inputs, height, width)
    if array.ndim == 4 and transposed:
        return array.transpose(2, 3, 0, 1)[::-1, ::-1]
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array

"""PyTorch networks as references. A test that needs a library that is not installed is skipped and says so."""

import importlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import convert
from segjax.training.state import named_leaves
from tests.models.variables import fast_jit

__all__ = ["assert_close", "converted", "fast_jit", "library", "nchw", "nested", "nhwc", "randomised", "state_arrays"]

torch = pytest.importorskip("torch", reason="a reference in PyTorch: see tests/references/requirements.txt")
torch.set_num_threads(2)
torch.manual_seed(0)  # as before each test, in conftest.py

COMPILED_OPERATORS = (
    "nms qnms roi_align qroi_align _roi_align_backward roi_pool _roi_pool_backward ps_roi_align _ps_roi_align_backward"
    " ps_roi_pool _ps_roi_pool_backward deform_conv2d _deform_conv2d_backward"
).split()
_declared = []


def library(name):
    """The module `name` (torchvision, segmentation_models_pytorch, timm), or the test is skipped.

    torchvision's networks need no compiled operator, but it asks for their names when it is imported. Where its
    binary does not fit the installed torch, the names are declared and torchvision is imported without it.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        pytest.skip(f"{name} is a reference and is not installed: see tests/references/requirements.txt")
    except RuntimeError:  # operator torchvision::nms does not exist
        names = torch.library.Library("torchvision", "DEF")
        for operator in COMPILED_OPERATORS:
            names.define(f"{operator}(Tensor x) -> Tensor")
        _declared.append(names)  # they vanish with the object
    return pytest.importorskip(name, reason="see tests/references/requirements.txt")


def randomised(module, seed=0):
    """The module with weights of He's variance and non-trivial biases, scales and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if key.endswith("num_batches_tracked"):
                continue
            if key.endswith("running_var") or (key.endswith("weight") and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
            else:
                tensor.normal_(0, 0.1, generator=generator)
    return module


def state_arrays(module) -> dict[str, np.ndarray]:
    return {key: tensor.detach().numpy() for key, tensor in module.state_dict().items()}


def converted(module, model, rules, image_shape=(1, 64, 64, 3), *, unused=()):
    """Our variables of `model` with the weights of a PyTorch module: every variable and every key is accounted for.

    unused: beginnings of the module's keys that have no counterpart here.
    """
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jax.ShapeDtypeStruct(image_shape, jnp.float32))
    found, report = convert(state_arrays(module), dict(named_leaves(shapes)), rules)
    assert not report.missing, report.missing[:10]
    assert not report.mismatched, report.mismatched[:10]
    left = {*report.unknown, *(key for key, why in (*report.skipped, *report.unused) if "counter" not in why)}
    left = [key for key in left if not key.startswith(tuple(unused))]
    assert not left, left[:10]
    return nested(found)


def nested(flat: Mapping[str, np.ndarray]) -> dict:
    tree: dict = {}
    for path, array in flat.items():
        *parts, last = path.split("/")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = jnp.asarray(array)
    return tree


def nchw(image) -> "torch.Tensor":
    return torch.from_numpy(np.array(image).transpose(0, 3, 1, 2))


def nhwc(tensor) -> np.ndarray:
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def assert_close(ours, theirs, tolerance=1e-4):
    """Largest difference relative to the largest value: float32 sums in another order, over many layers."""
    theirs = np.asarray(theirs)
    difference = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    assert np.asarray(ours).shape == theirs.shape and difference < tolerance, difference

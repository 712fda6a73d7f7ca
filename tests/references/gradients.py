"""Gradients of a PyTorch network compared with ours."""

import numpy as np

from segjax.convert.mapping import convert
from segjax.training.state import named_leaves
from tests.references.pytorch import torch


def mostly_active(module):
    """The network with norms whose results are mostly above 0, and with small scales at the end of residual branches.

    Random networks are no place to compare gradients in float32: their ReLUs near zero flip with the last bits, and
    PyTorch's own gradients in float32 and float64 differ by a tenth.
    """
    norms = {name: layer for name, layer in module.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    with torch.no_grad():
        for name, norm in norms.items():
            last = name.endswith("bn3") or (name.endswith("bn2") and name[:-1] + "3" not in norms)
            norm.weight.mul_(0.2 if last else 1.0)
            norm.bias.add_(0.5 if last else 3.0)
    return module


def assert_same_gradients(ours, module, rules, tolerance=1e-3):
    """Every parameter's gradient: largest difference relative to its largest value.

    Some are zero but for rounding, those of a bias before another norm; they are compared with the largest of all.

    ours: {"params": gradient}. module: after `backward()`.
    """
    flat = dict(named_leaves({"params": ours["params"]}))
    theirs = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    found, report = convert(theirs, flat, rules)
    assert not report.missing and not report.mismatched and not report.unknown
    least = 1e-3 * max(np.abs(gradient).max() for gradient in found.values())
    for path, gradient in found.items():
        difference = np.abs(np.asarray(flat[path]) - gradient).max() / max(np.abs(gradient).max(), least)
        assert difference < tolerance, (path, difference)

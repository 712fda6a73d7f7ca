"""PyTorch networks as references: statistics that fit their weights, and their gradients."""

import numpy as np

from segjax.convert.mapping import convert
from segjax.training.state import named_leaves
from tests.references.pytorch import nchw, torch


def calibrated(module, image):
    """The module in eval mode, its BatchNorm statistics set to those of this image [N, H, W, C].

    With random statistics the activations of a network without much normalisation grow to thousands. A gate such as
    the hard sigmoid, which is linear on [-3, 3] alone, then turns rounding errors of 1e-7 into errors of 1e-3, in
    any framework.
    """
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()(nchw(image))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return module.eval()


def assert_gradients_close(ours, module, rules):
    """Our gradients, a tree like `params`, equal those that `backward` left in a PyTorch module.

    They pass through the same conversion as the weights. A thousandth of each array's largest entry may differ, since
    BatchNorm's gradient is a small difference of large sums, and besides a millionth of the largest of all: a
    parameter that a later normalisation cancels has a gradient of 0, of which both sides compute the rounding errors.
    """
    ours = dict(named_leaves({"params": ours}))
    arrays = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    expected, report = convert(arrays, ours, rules)
    assert not report.missing and not report.mismatched and not report.unknown
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for path, gradient in ours.items():
        allowed = 1e-3 * np.abs(expected[path]).max() + 1e-6 * largest
        assert np.abs(gradient - expected[path]).max() < allowed, path

"""What the tests of Swin, ConvNeXt and UPerNet share."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.drop_path import DropPath

STAGES = ["stage1", "stage2", "stage3", "stage4"]
"""transformers' names of the features."""


def shapes_of(model, shape=(1, 64, 64, 3), train=False):
    """(output, variables) of `model` for an image of this shape, as shapes."""

    def init(image):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        return model.init_with_output(keys, image, train=train)

    return jax.eval_shape(init, jax.ShapeDtypeStruct(shape, jnp.float32))


def drop_path_rates(model):
    """The rates of stochastic depth in the order of the calls."""
    rates = []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, DropPath):
            rates.append(context.module.rate)
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        shapes_of(model)
    return rates


def own_paths(rules):
    """Rules of networks as those of their backbones alone."""
    return [rule._replace(path=rule.path and rule.path.removeprefix("backbone/")) for rule in rules]


def padded_patches(module):
    """A PyTorch network whose strided convolutions pad what they read to whole patches, as ours do."""
    from tests.references.pytorch import torch

    def pad(layer, inputs):
        (x,) = inputs
        bottom, right = (-length % stride for length, stride in zip(x.shape[2:], layer.stride, strict=True))
        return (torch.nn.functional.pad(x, (0, right, 0, bottom)),)

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.stride[0] > 1:
            layer.register_forward_pre_hook(pad)
    return module

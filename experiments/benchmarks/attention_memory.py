"""Memory of each kind of attention against the size of the features, read off the compiled program.

  PYTHONPATH=. python experiments/benchmarks/attention_memory.py

Temporary buffers of the layer and its gradient for one example with 64 channels, float32, in the form that each takes
where its matrix is computed whole and where `segjax.models.layers.attention` computes it in chunks. Writes
experiments/results/attention_memory.csv and .png; the exponent is that of the pixels between the two largest sizes.
"""

import functools
import math
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from experiments.benchmarks.facts import RESULTS, write_rows
from segjax.models.backbones.mit import EfficientSelfAttention
from segjax.models.ccnet import criss_cross
from segjax.models.danet import ChannelAttention
from segjax.models.layers import attention
from segjax.models.layers.deformable_attention import DeformableAttention
from segjax.models.layers.nonlocal_block import NonLocalBlock
from segjax.models.layers.pixel_attention import SelfAttention, attend
from segjax.models.layers.window_attention import WindowAttention

SIDES = (16, 32, 64, 96, 128)
CHANNELS = 64

REGIONS = 19


class Deformable(nn.Module):
    """The layer of Mask2Former's pixel decoder on one level."""

    @nn.compact
    def __call__(self, x):
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        return DeformableAttention()(flat, flat, [x.shape[1:3]]).reshape(x.shape)


class Regions(nn.Module):
    """OCRNet's: regions are means of the pixels, weighted by a softmax over space, and pixels look at regions."""

    @nn.compact
    def __call__(self, x):
        shares = jax.nn.softmax(nn.Dense(REGIONS)(x), axis=(1, 2))
        regions = jnp.einsum("nhwk,nhwc->nkc", shares, x)[:, None]
        return attend(nn.Dense(CHANNELS)(x), nn.Dense(CHANNELS)(regions), regions, scale=CHANNELS**-0.5)


POSITION = SelfAttention(functools.partial(attend, scale=1.0), None)
LAYERS = {
    "all pixels, whole matrix (DANet, non-local)": (POSITION, "whole"),
    "all pixels, in chunks": (POSITION, "chunked"),
    "keys on a grid 8 times coarser, whole (SegFormer)": (EfficientSelfAttention(1, 8), "whole"),
    "keys on a grid 8 times coarser, in chunks": (EfficientSelfAttention(1, 8), "chunked"),
    "row and column (CCNet)": (SelfAttention(criss_cross, None), "whole"),
    "windows of 7x7 (Swin)": (WindowAttention(7, 32), "whole"),
    "4 points of each of 8 heads (Mask2Former)": (Deformable(), "whole"),
    f"{REGIONS} regions (OCRNet)": (Regions(), "whole"),
    "non-local, dot product": (NonLocalBlock(form="dot_product"), "whole"),
    "channels (DANet)": (ChannelAttention(), "whole"),
}


def temporary_bytes(layer, form, side):
    """Of loss and gradient with respect to parameters and input."""
    x = jax.ShapeDtypeStruct((1, side, side, CHANNELS), jnp.float32)
    options = {"train": True} if isinstance(layer, NonLocalBlock) else {}
    variables = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, **options), x)

    def loss(params, x):
        rest = {name: value for name, value in variables.items() if name != "params"}
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), rest)
        found = layer.apply({"params": params, **zeros}, x, **options, mutable=list(rest))
        return (found[0] ** 2).sum()

    with mock.patch.object(attention, "chosen_form", lambda *arrays: form):
        lowered = jax.jit(jax.grad(loss, (0, 1))).lower(variables["params"], x)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def main():
    rows = []
    figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for name, (layer, form) in LAYERS.items():
        found = [temporary_bytes(layer, form, side) / 2**20 for side in SIDES]
        exponent = math.log(found[-1] / found[-2]) / math.log((SIDES[-1] / SIDES[-2]) ** 2)
        row = {"attention": name, **{f"{s}x{s}_MiB": f"{m:.1f}" for s, m in zip(SIDES, found, strict=True)}}
        rows.append(row | {"exponent": f"{exponent:.2f}"})
        print(rows[-1], flush=True)
        axes.plot([side**2 for side in SIDES], found, "o-", label=f"{name}: pixels^{exponent:.1f}")
    axes.set(xscale="log", yscale="log", xlabel="pixels of the features", ylabel="temporary memory, MiB")
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(RESULTS / "attention_memory.png", dpi=120)
    write_rows(RESULTS / "attention_memory.csv", rows)


if __name__ == "__main__":
    main()

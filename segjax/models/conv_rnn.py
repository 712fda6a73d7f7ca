"""Convolutional recurrent networks for clips: ConvLSTM, ConvGRU and recurrent FCN on any image network.

Shi et al. 2015 (ConvLSTM, arXiv:1506.04214) and Ballas et al. 2016 (ConvGRU, arXiv:1511.06432) have the cells, which
`segjax.models.layers.recurrent` compares with their equations. Between the encoder and the decoder of a segmentation
network they make a recurrent FCN: Valipour et al. 2017, "Recurrent Fully Convolutional Networks for Video
Segmentation", WACV 2017, arXiv:1606.00487, and Siam et al. 2017, "Convolutional Gated Recurrent Networks for Video
Segmentation", ICIP 2017, arXiv:1611.05435 (RFC-VGG: a ConvGRU on VGG's features, then the scores).

Deviations: the networks below have batch normalisation by config, all frames of a batch of clips in one statistic, and
the cell stands at one or several strides, with as many channels as the features that it replaces.
"""

import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.core.batch import MEMORY
from segjax.models.layers.conv import Conv
from segjax.models.layers.recurrent import GATES, ConvRecurrence
from segjax.models.output import Output

LABELS = ("all", "last")


class ConvRNN(nn.Module):
    """A network whose features at some strides pass through a recurrent layer on their way to the decoder.

    Where the collection MEMORY is mutable, the states stay there and the next call goes on from them, which is how a
    clip is read in windows, or a video frame by frame (see `ConvRecurrence`).

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters, states and logits are float32.
      network: a model with a `remember` argument: unet, unet_resnet, fcn, deeplab_v3plus. In a config {"name": one of
        MODELS, and its own fields}.
      cell: "convgru" or "convlstm".
      strides: at which features there is a recurrent layer; () has none, and sees each frame by itself.
      kernel_size: side of the cells' convolutions, odd.
      peepholes: of the ConvLSTM.
      memory: False for a network without recurrence and with the same parameters: each cell takes two steps on one
        frame, from a state of zeros, and no frame knows of another.
      bidirectional: a second layer from the last frame to the first, and a 1x1 convolution of both. Offline only.
      labels: "all", or "last": the decoder runs on the last frame of the clip alone, [N, 1, H, W, C].
      remat: a gradient keeps only the states between frames, and computes the rest again, frame by frame. Memory then
        hardly grows with the clip; batch normalisation has the statistics of one time instead of the clip's.
    """

    num_classes: int
    dtype: Any = jnp.float32
    network: Any = None
    cell: str = "convgru"
    strides: tuple = (8,)
    kernel_size: int = 3
    peepholes: bool = False
    memory: bool = True
    bidirectional: bool = False
    labels: str = "all"
    remat: bool = False

    def __post_init__(self):
        if not isinstance(self.network, nn.Module):
            raise ValueError(
                "conv_rnn needs a network: in a config model.network = {'name': 'unet', ...};"
                f" received {self.network!r}"
            )
        if self.strides and "remember" not in inspect.signature(type(self.network).__call__).parameters:
            raise ValueError(
                "conv_rnn needs a network with a place for its layers, as unet, unet_resnet, fcn and deeplab_v3plus"
                f" have it, or strides=(); received {type(self.network).__name__} and strides={self.strides}"
            )
        if self.labels == "last" and not self.strides:
            raise ValueError("labels='last' without recurrent layers would never see the other frames")
        if self.cell not in GATES or self.labels not in LABELS or self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(
                f"conv_rnn needs cell in {tuple(GATES)}, labels in {LABELS} and an odd kernel_size; received"
                f" cell={self.cell!r}, labels={self.labels!r}, kernel_size={self.kernel_size}"
            )
        if self.peepholes and self.cell != "convlstm":
            raise ValueError(f"peepholes are of the ConvLSTM; received cell={self.cell!r}")
        if self.bidirectional and not self.memory:
            raise ValueError("bidirectional needs memory: without it no frame knows of another")
        if self.remat and (self.bidirectional or self.labels != "all"):
            raise ValueError("remat goes frame by frame, so it needs labels='all' and not bidirectional")
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False, reset: jax.Array | None = None) -> jax.Array | Output:
        """Clips to logits.

        Args:
          image: floating [N, T, H, W, C], normalised; or [N, H, W, C], each image a clip of one frame.
          reset: bool [N], clips that begin anew whatever the memory holds; None is none.
        Returns:
          float32 [N, T, H, W, num_classes] (T = 1 with labels="last"), or [N, H, W, num_classes].
        """
        if image.ndim == 4:
            found = self(image[:, None], train=train, reset=reset)
            return jax.tree.map(lambda logits: logits[:, 0], found)
        if self.remat and train and image.shape[1] > 1:
            return self._frame_by_frame(image, reset)
        return self._together(image, train, reset)

    def _together(self, image, train, reset):
        """All frames in one batch; only the recurrent layers go from frame to frame."""
        count, frames = image.shape[:2]
        seen = []

        def remember(stride, features):
            seen.append(stride)
            clip = features.reshape(count, frames, *features.shape[1:])
            clip = layers[stride](clip, reset) if stride in layers else clip
            clip = clip[:, -1:] if self.labels == "last" else clip
            return clip.reshape(-1, *clip.shape[2:])

        # Made here and not in `remember`, which the network calls, so that the parameters are this module's.
        layers = {stride: self._layer(f"memory{stride}") for stride in self.strides}
        places = {"remember": remember} if self.strides or self.labels == "last" else {}
        found = self.network(image.reshape(-1, *image.shape[2:]), train=train, **places)
        if not set(self.strides) <= set(seen):
            name = type(self.network).__name__
            raise ValueError(f"strides must be among {tuple(sorted(seen))} of {name}; received {self.strides}")
        return jax.tree.map(lambda logits: logits.reshape(count, -1, *logits.shape[1:]), found)

    def _layer(self, name):
        fields = dict(cell=self.cell, kernel_size=(self.kernel_size,) * 2, peepholes=self.peepholes, dtype=self.dtype)
        return Memory(fields, memory=self.memory, bidirectional=self.bidirectional, name=name)

    def _frame_by_frame(self, image, reset):
        """What `_together` computes, one frame at a time, and each computed again for its gradient."""
        plain = self.clone(parent=None, name=None, remat=False)
        variables = dict(self.variables)
        params = variables.pop("params")
        mutable = sorted({*variables, MEMORY})
        reset = jnp.zeros(image.shape[0], bool) if reset is None else reset
        keys = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}

        def one_frame(carry, inputs):
            changing, reset = carry
            index, frame = inputs
            rngs = jax.tree.map(lambda key: jax.random.fold_in(key, index), keys)
            variables = {"params": params, **changing}
            found, changing = plain.apply(
                variables, frame[:, None], train=True, reset=reset, rngs=rngs, mutable=mutable
            )
            return (changing, jnp.zeros_like(reset)), jax.tree.map(lambda logits: logits[:, 0], found)

        inputs = jnp.arange(image.shape[1]), image.swapaxes(0, 1)
        first = jax.tree.map(lambda x: x[0], inputs)
        shapes = jax.eval_shape(one_frame, (variables, reset), first)[0][0]
        changing = {name: variables.get(name, jax.tree.map(_zeros, tree)) for name, tree in shapes.items()}
        (changing, _), found = jax.lax.scan(jax.checkpoint(one_frame), (changing, reset), inputs)
        for collection, trees in changing.items():
            for name, tree in trees.items():
                if self.is_mutable_collection(collection):
                    self.put_variable(collection, name, tree)
        return jax.tree.map(lambda logits: logits.swapaxes(0, 1), found)


class Memory(nn.Module):
    """The recurrent layer at one stride, with as many channels as the features. Attributes: see `ConvRNN`."""

    fields: Any
    memory: bool
    bidirectional: bool

    @nn.compact
    def __call__(self, clip: jax.Array, reset: jax.Array | None) -> jax.Array:
        """[N, T, H, W, C] to the same shape."""
        channels = clip.shape[-1]
        keep = self.memory and not self.bidirectional
        forward = ConvRecurrence(channels, keep=keep, name="forward", **self.fields)
        if not self.memory:
            frames = clip.reshape(-1, 1, *clip.shape[2:])
            return forward(jnp.concatenate([frames, frames], 1))[:, 1].reshape(clip.shape)
        if not self.bidirectional:
            return forward(clip, reset)
        backward = ConvRecurrence(channels, keep=keep, reverse=True, name="backward", **self.fields)
        both = jnp.concatenate([forward(clip), backward(clip)], -1)
        return Conv(channels, (1, 1), dtype=both.dtype, name="join")(both.reshape(-1, *both.shape[2:])).reshape(
            clip.shape
        )


def _zeros(shape):
    return jnp.zeros(shape.shape, shape.dtype)

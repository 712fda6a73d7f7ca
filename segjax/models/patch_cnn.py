"""Deep Neural Networks Segment Neuronal Membranes in Electron Microscopy Images.

Ciresan, Giusti, Gambardella and Schmidhuber, NIPS 2012. A convolutional network classifies the centre pixel of a
window; slid over the image it segments it. Compared with the paper's network N4 (window 95x95, 48 maps in each of four
convolutional layers with 2x2 max pooling, 200 hidden units).

The same parameters make a network for whole images, without retraining, which computes for all pixels at once what
neighbouring windows share: the max-pooling fragments of Giusti et al., "Fast Image Scanning with Deep Max-Pooling
Convolutional Neural Networks", 2013, arXiv:1302.1700, and Masci et al. 2013, arXiv:1302.1690. A pooling keeps the four
maps that start at even or odd rows and columns, instead of the first of them alone; here they lie along the batch
axis, so that each layer is the one that classifies windows. Fully convolutional networks (`segjax.models.fcn`) are the
next step: they drop the fragments, and learn to upsample.

Deviations
- The activation is ReLU, a choice of ours, and weights start as He et al. 2015.
- Foveation and non-uniform sampling of the window, the average of several networks and the calibration of their
  outputs are left out.
- Images have three channels; the paper's have one.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.pool import max_pool

VARIANTS = {
    # Network N4: 95 -conv-> 92 -pool-> 46 -conv-> 42 -pool-> 21 -conv-> 18 -pool-> 9 -conv-> 6 -pool-> 3.
    "n4": dict(window=95, kernel_sizes=(4, 5, 4, 4), features=48, hidden=200),
    # Not in the paper, of a cost that suits a CPU. 33 -> 30 -> 15 -> 12 -> 6 -> 4 -> 2.
    "small": dict(window=33, kernel_sizes=(4, 4, 3), features=32, hidden=100),
}


class PatchCNN(nn.Module):
    """Classifier of the centre pixel of a window: windows in training, whole images in evaluation.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      window: side of the window, odd, so that it has a centre; each pooling must meet an even side.
      kernel_sizes: of the convolutions, each followed by 2x2 max pooling.
      features: maps of each convolution.
      hidden: units of the fully connected layer.
    """

    num_classes: int
    dtype: Any = jnp.float32
    window: int = 95
    kernel_sizes: tuple = (4, 5, 4, 4)
    features: int = 48
    hidden: int = 200

    def __post_init__(self):
        pooled = pooled_sides(self.window, self.kernel_sizes)
        if self.window % 2 == 0 or any(side % 2 or side < 2 for side in pooled):
            raise ValueError(
                "PatchCNN's window must be odd, and each convolution must leave an even side to be pooled; received"
                f" window={self.window} and kernel_sizes={tuple(self.kernel_sizes)}, whose sides are {pooled}"
            )
        if self.features < 1 or self.hidden < 1:
            raise ValueError(
                f"PatchCNN needs features >= 1 and hidden >= 1; received {self.features} and {self.hidden}"
            )
        super().__post_init__()

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits of centre pixels.

        image floating [N, H, W, C]. With train=True to float32 [N, 1, 1, num_classes], of the pixel
        ((H - 1) // 2, (W - 1) // 2) from the window around it; the config's crop size is the window. With train=False
        to float32 [N, H, W, num_classes], of every pixel, H and W >= 1; outside the image is its mirror image, as in
        the paper, the edge pixels not repeated.

        Raises:
          ValueError: with train=True, an image smaller than the window.
        """
        height, width = image.shape[1:3]
        if train:
            if min(height, width) < self.window:
                raise ValueError(
                    f"a training image must be at least the window, {self.window}x{self.window}; received"
                    f" {height}x{width}. Set config.data.crop_size=({self.window}, {self.window})"
                )
            top, left = (height - self.window) // 2, (width - self.window) // 2
            return self.network(image[:, top : top + self.window, left : left + self.window], fragments=False)
        # Fragments have equal sizes where the logits' sides are multiples of the stride.
        stride = 2 ** len(self.kernel_sizes)
        image = mirror(mirror(image, 1, self.window, stride), 2, self.window, stride)
        return self.network(image, fragments=True)[:, :height, :width]

    @nn.compact
    def network(self, image: jax.Array, *, fragments: bool) -> jax.Array:
        """The layers of table 1, nothing padded.

        Without fragments image is [N, window, window, C] and the result [N, 1, 1, num_classes]. With fragments it is
        [N, window - 1 + H, window - 1 + W, C], H and W multiples of the stride, and the result [N, H, W, num_classes].
        """
        x = image.astype(self.dtype)
        for i, size in enumerate(self.kernel_sizes, start=1):
            x = ConvBlock(self.features, (size, size), padding="VALID", norm="none", dtype=self.dtype, name=f"conv{i}")(
                x, train=False
            )
            x = pool_fragments(x) if fragments else max_pool(x)
        # The fully connected layer reads what is left of a window: a convolution of that size.
        side = pooled_sides(self.window, self.kernel_sizes)[-1] // 2
        hidden = ConvBlock(self.hidden, (side, side), padding="VALID", norm="none", dtype=self.dtype, name="hidden")
        x = hidden(x, train=False)
        x = Conv(self.num_classes, (1, 1), dtype=self.dtype, name="head")(x).astype(jnp.float32)
        return join_fragments(x, len(self.kernel_sizes)) if fragments else x


def pooled_sides(window: int, kernel_sizes: Sequence[int]) -> list[int]:
    """Side of the maps that each pooling meets, in a window."""
    sides = []
    for size in kernel_sizes:
        sides.append((sides[-1] // 2 if sides else window) - size + 1)
    return sides


def pool_fragments(x: jax.Array) -> jax.Array:
    """2x2 max pooling at every pixel, as four maps of stride 2 each.

    x [N, 2h + 1, 2w + 1, C] to [4N, h, w, C]: fragment 2 * i + j of each image starts at row i and column j.
    """
    count, height, width, channels = x.shape
    parts = [max_pool(x[:, i : height - 1 + i, j : width - 1 + j]) for i in range(2) for j in range(2)]
    return jnp.stack(parts, axis=1).reshape(4 * count, height // 2, width // 2, channels)


def join_fragments(x: jax.Array, poolings: int) -> jax.Array:
    """The fragments of `poolings` times `pool_fragments`, put together: [4**p N, h, w, C] to [N, 2**p h, 2**p w, C]."""
    for _ in range(poolings):
        count, height, width, channels = x.shape
        x = x.reshape(count // 4, 2, 2, height, width, channels).transpose(0, 3, 1, 4, 2, 5)
        x = x.reshape(count // 4, 2 * height, 2 * width, channels)
    return x


def mirror(image: jax.Array, axis: int, window: int, multiple: int = 1) -> jax.Array:
    """The image continued along an axis by half a window on each side, and up to a multiple after it."""
    size = image.shape[axis]
    # NumPy goes on mirroring where the margin is larger than the image.
    indices = np.pad(np.arange(size), (window // 2, window // 2 + -size % multiple), mode="reflect")
    return jnp.take(image, indices, axis=axis)


def slide_windows(model: PatchCNN, variables: Any, image: jax.Array, *, batch_size: int = 256) -> jax.Array:
    """The paper's way to segment an image, one window a pixel: what the network for whole images is measured against.

    image floating [N, H, W, C] to float32 [N, H, W, num_classes]; batch_size windows are classified at a time.
    """
    count, height, width, channels = image.shape
    padded = mirror(mirror(image, 1, model.window), 2, model.window)

    def classify(at):
        window = jax.lax.dynamic_slice(padded, (*at, 0), (1, model.window, model.window, channels))
        return model.apply(variables, window, train=True)[0, 0, 0]

    pixels = np.stack(np.meshgrid(*map(np.arange, (count, height, width)), indexing="ij"), -1).reshape(-1, 3)
    logits = jax.lax.map(classify, jnp.asarray(pixels), batch_size=batch_size)
    return logits.reshape(count, height, width, model.num_classes)

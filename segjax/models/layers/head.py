"""The head of fully convolutional networks on a dilated backbone, and of the auxiliary loss beside others."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.conv import Conv, ConvBlock


class FCNHead(nn.Module):
    """Convolution, normalisation, ReLU, dropout, convolution to the classes: `conv` and `logits`.

    Attributes:
      num_classes: channels of the result.
      channels: of the first convolution; a quarter of the input's where None, as torchvision's.
      windows: size of each convolution's kernel.
      dropout: rate.
      whole_maps: drop whole feature maps instead of single values, as in PSPNet's reference code.
      dtype: compute dtype.
    """

    num_classes: int
    channels: int | None = None
    windows: tuple[int, int] = (3, 1)
    dropout: float = 0.1
    whole_maps: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[N, H, W, C] to float32 [N, H, W, num_classes]. Needs the "dropout" rng in training."""
        channels = x.shape[-1] // 4 if self.channels is None else self.channels
        first, last = ((size, size) for size in self.windows)
        x = ConvBlock(channels, first, dtype=self.dtype, name="conv")(x, train=train)
        axes = (1, 2) if self.whole_maps else ()
        x = nn.Dropout(self.dropout, broadcast_dims=axes, deterministic=not train)(x)
        return Conv(self.num_classes, last, dtype=self.dtype, name="logits")(x).astype(jnp.float32)

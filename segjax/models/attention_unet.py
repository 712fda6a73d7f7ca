"""Attention U-Net: Learning Where to Look for the Pancreas.

Oktay et al., MIDL 2018, arXiv:1804.03999, figures 1 and 2 and section 2.1: a gate on each skip connection weighs its
pixels by what the level below has found. Compared with a network in PyTorch written from the paper and from the layers
of the authors' code (github.com/ozan-oktay/Attention-Gated-Networks, GridAttentionBlock2D and
unet_CT_single_att_dsv_3D).

Where the two differ the gate is that of the code: W_x is a 2x2 convolution of stride 2 (1x1 in the paper), as many
channels inside as the skip connection has, a 1x1 convolution with batch normalisation after the product, and another
with ReLU before the lowest gating signal. As in both, the skip connection at full resolution has no gate.

Deviations: the network around the gates is `UNet` in two dimensions with padded convolutions, so that what is upsampled
passes a 1x1 convolution first; the authors' is three-dimensional. There is no deep supervision and, after a gate, no
second 1x1 convolution with ReLU. The paper wants gates that at first let everything pass (section 3): here psi starts
at zero, so that all coefficients are 1/2, which the normalisation after the product undoes.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.attention import keep_map
from segjax.models.layers.conv import Conv, ConvBlock
from segjax.models.layers.upsample import resize_bilinear
from segjax.models.remember import Remember, pass_on
from segjax.models.unet import HE_NORMAL, UNet

VARIANTS = {
    # The channels of the authors' networks (feature_scale 4) and those of Ronneberger et al. 2015.
    "narrow": dict(width=16, depth=4),
    "wide": dict(width=64, depth=4),
}


class AttentionUNet(nn.Module):
    """U-Net with gated skip connections: `unet`, `gating`, and `gate1` to `gate<depth - 1>` at stride 2**level.

    Attributes:
      num_classes: channels of the logits.
      dtype: compute dtype; parameters and logits are float32.
      width, depth, up: see `UNet`.
      attention: False gives each gate's coefficients their mean over the image. The network then has the same
        parameters, all of them trained, at the same cost, and prefers no place to another.
    """

    num_classes: int
    dtype: Any = jnp.float32
    width: int = 64
    depth: int = 4
    up: str = "bilinear"
    attention: bool = True

    def __post_init__(self):
        if self.depth < 2:
            raise ValueError(
                "AttentionUNet needs depth >= 2, since the skip connection at full resolution has no gate;"
                f" received depth={self.depth}"
            )
        UNet(self.num_classes, self.dtype, self.width, self.depth, up=self.up, parent=None)  # checks the others
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False, remember: Remember = pass_on) -> jax.Array:
        """image floating [N, H, W, C], any H and W >= 1, to logits float32 [N, H, W, num_classes].

        `remember` is what a recurrent network puts between the two paths, at strides 1 to 2**depth.
        """
        # Made here and not in `gate`, which the network calls, so that the parameters are this module's.
        gating = ConvBlock(self.width * 2**self.depth, (1, 1), dtype=self.dtype, name="gating")
        gates = {
            2**level: AttentionGate(self.attention, self.dtype, name=f"gate{level}") for level in range(1, self.depth)
        }

        def gate(stride, skip, below):
            if stride not in gates:
                return skip
            signal = gating(below, train=train) if stride == max(gates) else below
            return gates[stride](skip, signal, train=train)

        unet = UNet(self.num_classes, self.dtype, self.width, self.depth, up=self.up, name="unet")
        return unet(image, train=train, remember=remember, gate=gate)


class AttentionGate(nn.Module):
    """Additive attention, section 2.1: one coefficient a pixel from its features and a coarser gating signal.

    Its parts are named `theta` (W_x), `phi` (W_g), `psi` and `out` as in the authors' code. The coefficients, 0 to 1,
    are kept as the map `coefficients`.

    Attributes:
      attention: False gives all pixels of an image the mean of its coefficients.
      dtype: compute dtype; the coefficients are float32.
    """

    attention: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, signal: jax.Array, *, train: bool) -> jax.Array:
        """x [N, H, W, C], H and W even, and signal [N, H/2, W/2, C'] to [N, H, W, C] of `dtype`."""
        channels = x.shape[-1]
        theta = Conv(channels, (2, 2), (2, 2), use_bias=False, kernel_init=HE_NORMAL, dtype=self.dtype, name="theta")(x)
        phi = Conv(channels, (1, 1), kernel_init=HE_NORMAL, dtype=self.dtype, name="phi")(signal)
        psi = Conv(1, (1, 1), kernel_init=nn.initializers.zeros, dtype=self.dtype, name="psi")(nn.relu(theta + phi))
        # Equations 1 and 2.
        coefficients = resize_bilinear(nn.sigmoid(psi.astype(jnp.float32)), x.shape[1:3])
        if not self.attention:
            mean = coefficients.mean((1, 2), keepdims=True)
            coefficients = jnp.broadcast_to(mean, coefficients.shape)
        keep_map(self, "coefficients", lambda: coefficients[..., 0])
        gated = x * coefficients.astype(self.dtype)
        return ConvBlock(channels, (1, 1), activation=None, dtype=self.dtype, name="out")(gated, train=train)

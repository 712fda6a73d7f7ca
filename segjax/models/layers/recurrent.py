"""Convolutional recurrent layers over the frames of clips: ConvLSTM and ConvGRU.

ConvLSTM: Shi et al. 2015, "Convolutional LSTM Network", NIPS 2015, arXiv:1506.04214, equation 3. ConvGRU: Ballas et al.
2016, "Delving Deeper into Convolutional Networks for Learning Video Representations", ICLR 2016, arXiv:1511.06432,
equations 7 to 10. Compared with loops in NumPy.

What a cell does with its input needs no state, so the input convolutions of all frames and gates are one convolution
before the loop; inside `jax.lax.scan` stand those of the state. Each gate's weights start by themselves, by Glorot's
rule for the input and orthogonal for the state.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.core.batch import MEMORY
from segjax.models.layers.conv import convolve, convolve_in_loop
from segjax.models.layers.gates import side_by_side

GATES = {"convgru": 3, "convlstm": 4}
"""Gates of each cell: update, reset, candidate; input, forget, candidate, output."""


class ConvRecurrence(nn.Module):
    """One recurrent layer that goes over the frames of each clip in their order.

    With `keep`, and where the collection MEMORY is mutable, the state after the last frame stays there, and the next
    call goes on from it: two half clips give what the whole clip gives. Otherwise each call begins with a state of
    zeros.

    Attributes:
      features: channels of the state and of the output.
      cell: "convgru" or "convlstm".
      kernel_size: of both convolutions, odd.
      peepholes: ConvLSTM's gates see the cell too, by one weight a channel. (In the paper the weights are of each pixel
        as well, which ties a network to one image size.)
      reverse: go from the last frame to the first.
      keep: see above.
      dtype: compute dtype of the convolutions; the state is float32.
    """

    features: int
    cell: str = "convgru"
    kernel_size: tuple[int, int] = (3, 3)
    peepholes: bool = False
    reverse: bool = False
    keep: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, reset: jax.Array | None = None) -> jax.Array:
        """[N, T, H, W, C] to [N, T, H, W, features] of `dtype`.

        reset is bool [N]: clips that begin with a state of zeros whatever the memory holds; None is none of them.
        """
        gates, features = GATES[self.cell], self.features
        glorot = side_by_side(nn.initializers.glorot_uniform(), features)
        orthogonal = side_by_side(nn.initializers.orthogonal(), features)
        shape = (*self.kernel_size, x.shape[-1], gates * features)
        input_kernel = self.param("input_kernel", glorot, shape).astype(self.dtype)
        shape = (*self.kernel_size, features, gates * features)
        state_kernel = self.param("state_kernel", orthogonal, shape).astype(self.dtype)
        bias = self.param("bias", self._initial_bias, (gates * features,))
        peepholes = None
        if self.peepholes:
            peepholes = self.param("peepholes", nn.initializers.zeros, (3, features))

        count, frames, height, width, channels = x.shape
        merged = x.reshape(-1, height, width, channels).astype(self.dtype)
        driven = convolve(merged, input_kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        driven = driven.reshape(count, frames, height, width, -1).swapaxes(0, 1)

        zeros = jnp.zeros((count, self._state_parts, height, width, features), jnp.float32)
        kept = self.keep and self.is_mutable_collection(MEMORY) and not self.is_initializing()
        memory = self.variable(MEMORY, "state", lambda: zeros) if kept else None
        state = memory.value if kept else zeros
        if reset is not None:
            state = jnp.where(reset[:, None, None, None, None], 0.0, state)

        def step(state, driven):
            state = CELLS[self.cell](state, driven.astype(jnp.float32) + bias, state_kernel, peepholes)
            return state, state[0].astype(self.dtype)

        state, y = jax.lax.scan(step, state.swapaxes(0, 1), driven, reverse=self.reverse)
        if kept:
            memory.value = state.swapaxes(0, 1)
        return y.swapaxes(0, 1)

    @property
    def _state_parts(self):
        return 2 if self.cell == "convlstm" else 1

    def _initial_bias(self, key, shape):
        del key
        bias = jnp.zeros(shape, jnp.float32)
        # The forget gate begins open (Jozefowicz et al. 2015), else a long clip's start has no gradient.
        return bias.at[self.features : 2 * self.features].set(1.0) if self.cell == "convlstm" else bias


def _of_state(state, kernel):
    return convolve_in_loop(state.astype(kernel.dtype), kernel).astype(jnp.float32)


def convgru_step(state: jax.Array, driven: jax.Array, kernel: jax.Array, peepholes: None) -> jax.Array:
    """Ballas et al. 2016, equations 7 to 10, without layers below or above.

    state float32 [1, N, H, W, F]: the hidden state. driven float32 [N, H, W, 3 F]: what the input and the bias give to
    the update gate, the reset gate and the candidate. kernel [k, k, F, 3 F].
    """
    del peepholes
    (hidden,) = state
    features = hidden.shape[-1]
    gates = jax.nn.sigmoid(driven[..., : 2 * features] + _of_state(hidden, kernel[..., : 2 * features]))
    update, reset = jnp.split(gates, 2, -1)
    candidate = jnp.tanh(driven[..., 2 * features :] + _of_state(reset * hidden, kernel[..., 2 * features :]))
    return ((1 - update) * hidden + update * candidate)[None]


def convlstm_step(state: jax.Array, driven: jax.Array, kernel: jax.Array, peepholes: jax.Array | None) -> jax.Array:
    """Shi et al. 2015, equation 3.

    state float32 [2, N, H, W, F]: hidden state and cell. driven float32 [N, H, W, 4 F]: what the input and the bias
    give to the input gate, the forget gate, the candidate and the output gate. kernel [k, k, F, 4 F]. peepholes
    float32 [3, F], of the input, forget and output gates, or None.
    """
    hidden, cell = state
    see_input, see_forget, see_output = (0.0, 0.0, 0.0) if peepholes is None else peepholes
    enter, forget, candidate, leave = jnp.split(driven + _of_state(hidden, kernel), 4, -1)
    enter, forget = jax.nn.sigmoid(enter + see_input * cell), jax.nn.sigmoid(forget + see_forget * cell)
    cell = forget * cell + enter * jnp.tanh(candidate)
    return jnp.stack([jax.nn.sigmoid(leave + see_output * cell) * jnp.tanh(cell), cell])


CELLS = {"convgru": convgru_step, "convlstm": convlstm_step}

"""ReNet: recurrent networks that sweep an image in four directions.

Visin et al. 2015, "ReNet: A Recurrent Neural Network Based Alternative to Convolutional Networks", arXiv:1505.00393,
section 2; the order of the sweeps is that of Visin et al. 2016 (ReSeg, arXiv:1511.07053, section 3.1): down and up, and
on what they found forward and backward. Compared with loops in NumPy and with PyTorch's GRU and LSTM.

What a cell does with its input needs no state, so it is one matrix product for all steps, before the loop.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.gates import side_by_side

GATES = {"gru": 3, "lstm": 4}


class ReNet(nn.Module):
    """One layer: [N, H, W, C] to [N, ceil(H / p), ceil(W / p), 2 hidden].

    Attributes:
      hidden: units of each of the four networks.
      patch: p, side of the patches that they read one after the other; zeros are added at the bottom and the right.
      cell: "gru" or "lstm", see `Sweep`.
      dtype: compute dtype; the states are float32.
    """

    hidden: int
    patch: int = 1
    cell: str = "gru"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side = self.patch
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % side), (0, -x.shape[2] % side), (0, 0)))
        count, rows, columns, channels = x.shape[0], x.shape[1] // side, x.shape[2] // side, x.shape[3]
        x = x.reshape(count, rows, side, columns, side, channels)
        x = x.transpose(0, 3, 1, 2, 4, 5).reshape(count * columns, rows, side * side * channels)
        x = Sweep(self.hidden, self.cell, self.dtype, name="vertical")(x)
        x = x.reshape(count, columns, rows, -1).swapaxes(1, 2).reshape(count * rows, columns, -1)
        x = Sweep(self.hidden, self.cell, self.dtype, name="horizontal")(x)
        return x.reshape(count, rows, columns, -1)


class Sweep(nn.Module):
    """A recurrent network along sequences and another one against them: [B, T, C] to [B, T, 2 hidden].

    The GRU is Cho et al.'s (2014) with the reset gate after the product with the state, as in the authors' code and in
    PyTorch: r, z = sigmoid(...), n = tanh(W x + b + r U h), h' = (1 - z) n + z h. The LSTM has input, forget, candidate
    and output gates. Both are PyTorch's with its second bias at zero, and gates in its order.

    Each gate's weights start by themselves, by Glorot's rule for the input and orthogonal for the state.
    """

    hidden: int
    cell: str = "gru"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.cell not in GATES:
            raise ValueError(f"the cell must be in {tuple(GATES)}; received {self.cell!r}")
        size = GATES[self.cell] * self.hidden
        glorot = side_by_side(nn.initializers.glorot_uniform(), self.hidden)
        input_kernel = self.param("input_kernel", glorot, (x.shape[-1], 2 * size))
        bias = self.param("bias", nn.initializers.zeros, (2 * size,))
        orthogonal = side_by_side(nn.initializers.orthogonal(), self.hidden)
        kernels = [
            self.param(f"{way}_kernel", orthogonal, (self.hidden, size)).astype(self.dtype)
            for way in ("forward", "backward")
        ]
        driven = x.astype(self.dtype) @ input_kernel.astype(self.dtype) + bias.astype(self.dtype)
        forward, backward = jnp.split(driven.swapaxes(0, 1), 2, -1)
        zeros = jnp.zeros((2 if self.cell == "lstm" else 1, x.shape[0], self.hidden), jnp.float32)
        cell = {"gru": gru_step, "lstm": lstm_step}[self.cell]

        def step(states, driven):
            states = [cell(*each) for each in zip(states, driven, kernels, strict=True)]
            return states, [state[0].astype(self.dtype) for state in states]

        # Both ways in one loop: its steps are small.
        _, (forward, backward) = jax.lax.scan(step, [zeros, zeros], [forward, backward[::-1]])
        return jnp.concatenate([forward, backward[::-1]], -1).swapaxes(0, 1)


def _of_state(state, kernel):
    return (state.astype(kernel.dtype) @ kernel).astype(jnp.float32)


def gru_step(state: jax.Array, driven: jax.Array, kernel: jax.Array) -> jax.Array:
    """state float32 [1, B, F]; driven [B, 3 F], what the input and the bias give to r, z and n; kernel [F, 3 F]."""
    (hidden,) = state
    reset, update, candidate = jnp.split(driven.astype(jnp.float32), 3, -1)
    to_reset, to_update, to_candidate = jnp.split(_of_state(hidden, kernel), 3, -1)
    update = jax.nn.sigmoid(update + to_update)
    candidate = jnp.tanh(candidate + jax.nn.sigmoid(reset + to_reset) * to_candidate)
    return ((1 - update) * candidate + update * hidden)[None]


def lstm_step(state: jax.Array, driven: jax.Array, kernel: jax.Array) -> jax.Array:
    """state float32 [2, B, F], hidden state and cell; driven [B, 4 F], to i, f, g and o; kernel [F, 4 F]."""
    hidden, cell = state
    enter, forget, candidate, leave = jnp.split(driven.astype(jnp.float32) + _of_state(hidden, kernel), 4, -1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
    return jnp.stack([jax.nn.sigmoid(leave) * jnp.tanh(cell), cell])

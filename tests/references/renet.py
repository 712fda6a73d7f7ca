"""ReNet's four sweeps as loops over the cells of an image in NumPy, float64, written from the papers' equations."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(sequence, kernel, state_kernel, bias):
    """[T, C] to the states [T, F]. The gates r, z, n lie side by side in the kernels."""
    h = np.zeros(state_kernel.shape[0])
    states = []
    for x in sequence:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(x @ kernel + bias, 3), np.split(h @ state_kernel, 3)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        h = (1 - z) * np.tanh(x_n + r * h_n) + z * h
        states.append(h)
    return np.stack(states)


def lstm(sequence, kernel, state_kernel, bias):
    """[T, C] to the states [T, F]. The gates i, f, g, o lie side by side in the kernels."""
    h = c = np.zeros(state_kernel.shape[0])
    states = []
    for x in sequence:
        i, f, g, o = np.split(x @ kernel + bias + h @ state_kernel, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states)


def both_ways(cell, sequence, params):
    kernels, biases = np.split(params["input_kernel"], 2, -1), np.split(params["bias"], 2)
    along = cell(sequence, kernels[0], params["forward_kernel"], biases[0])
    against = cell(sequence[::-1], kernels[1], params["backward_kernel"], biases[1])[::-1]
    return np.concatenate([along, against], -1)


def renet(image, params, cell, patch):
    """[H, W, C] to [ceil(H / p), ceil(W / p), 2 F]."""
    rows, columns = -(-image.shape[0] // patch), -(-image.shape[1] // patch)
    padded = np.zeros((rows * patch, columns * patch, image.shape[2]))
    padded[: image.shape[0], : image.shape[1]] = image
    patches = np.stack(
        [
            [padded[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].ravel() for j in range(columns)]
            for i in range(rows)
        ]
    )
    swept = np.stack([both_ways(cell, patches[:, j], params["vertical"]) for j in range(columns)], 1)
    return np.stack([both_ways(cell, swept[i], params["horizontal"]) for i in range(rows)])

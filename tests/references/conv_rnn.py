"""ConvLSTM and ConvGRU as loops over frames and pixels in NumPy, float64, written from the papers' equations."""

import numpy as np


def convolve(image, kernel):
    """[H, W, C] with [k, k, C, F], zeros around the image, to [H, W, F]."""
    size = kernel.shape[0]
    padded = np.pad(image, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    result = np.zeros((*image.shape[:2], kernel.shape[-1]))
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            result[y, x] = np.tensordot(padded[y : y + size, x : x + size], kernel, 3)
    return result


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convlstm(clip, input_kernel, state_kernel, bias, peepholes=None):
    """Shi et al. 2015, equation 3, of one clip [T, H, W, C]: all hidden states [T, H, W, F]."""
    w_xi, w_xf, w_xc, w_xo = np.split(input_kernel, 4, -1)
    w_hi, w_hf, w_hc, w_ho = np.split(state_kernel, 4, -1)
    b_i, b_f, b_c, b_o = np.split(bias, 4)
    w_ci, w_cf, w_co = np.zeros((3, len(b_i))) if peepholes is None else peepholes
    h = c = np.zeros((*clip.shape[1:3], len(b_i)))
    found = []
    for x in clip:
        i = sigmoid(convolve(x, w_xi) + convolve(h, w_hi) + w_ci * c + b_i)
        f = sigmoid(convolve(x, w_xf) + convolve(h, w_hf) + w_cf * c + b_f)
        new = f * c + i * np.tanh(convolve(x, w_xc) + convolve(h, w_hc) + b_c)
        o = sigmoid(convolve(x, w_xo) + convolve(h, w_ho) + w_co * new + b_o)
        h, c = o * np.tanh(new), new
        found.append(h)
    return np.stack(found)


def convgru(clip, input_kernel, state_kernel, bias):
    """Ballas et al. 2016, equations 7 to 10, of one clip [T, H, W, C]: all hidden states [T, H, W, F]."""
    w_z, w_r, w = np.split(input_kernel, 3, -1)
    u_z, u_r, u = np.split(state_kernel, 3, -1)
    b_z, b_r, b = np.split(bias, 3)
    h = np.zeros((*clip.shape[1:3], len(b)))
    found = []
    for x in clip:
        z = sigmoid(convolve(x, w_z) + convolve(h, u_z) + b_z)
        r = sigmoid(convolve(x, w_r) + convolve(h, u_r) + b_r)
        candidate = np.tanh(convolve(x, w) + convolve(r * h, u) + b)
        h = (1 - z) * h + z * candidate
        found.append(h)
    return np.stack(found)

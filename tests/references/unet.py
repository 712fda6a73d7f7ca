"""U-Net in its original form (Ronneberger et al. 2015, figure 1) in NumPy, from our parameters."""

import numpy as np

from tests.references.convolution import convolution, max_pool
from tests.references.upsample import conv_transpose


def original_unet(params, image, depth, with_skips=True):
    """The unpadded network without dropout: image [N, H, W, C] to logits [N, H', W', num_classes]."""

    def two_convolutions(x, name):
        for i in range(2):
            layer = params[f"{name}_conv{i}"]["conv"]
            x = np.maximum(convolution(x, layer["kernel"]) + layer["bias"], 0)
        return x

    x, skips = image, []
    for level in range(depth):
        x = two_convolutions(x, f"down{level}")
        skips.append(x)
        x = max_pool(x, (2, 2), (2, 2))
    x = two_convolutions(x, f"down{depth}")
    for level in reversed(range(depth)):
        x = conv_transpose(x, params[f"up{level}"]["kernel"], 2) + params[f"up{level}"]["bias"]
        skip = skips[level]
        top, left = (skip.shape[1] - x.shape[1]) // 2, (skip.shape[2] - x.shape[2]) // 2
        skip = skip[:, top : top + x.shape[1], left : left + x.shape[2]]
        x = two_convolutions(np.concatenate([skip, x], axis=-1) if with_skips else x, f"up{level}")
    return convolution(x, params["head"]["kernel"]) + params["head"]["bias"]

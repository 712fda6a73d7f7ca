"""The batch: keys, shapes and dtypes of what flows from the pipeline to the model, the loss and the scores.

| key   | shape        | dtype   | meaning                                                               |
|-------|--------------|---------|-----------------------------------------------------------------------|
| image | [N, H, W, 3] | float32 | RGB, normalised with the data set's mean and standard deviation       |
| label | [N, H, W]    | uint8   | class index in 0..num_classes-1, or IGNORE_LABEL                      |
| index | [N]          | int32   | which example of the split this is; -1 for padding of the last batch  |

and in training, where `data.border_weight.w0` is above 0:

| key    | shape     | dtype   | meaning                                                                 |
|--------|-----------|---------|-------------------------------------------------------------------------|
| weight | [N, H, W] | float32 | what is added in the loss to the weight of the pixel's class; 0 or more |

and where `loss.masks.segments` are not classes:

| key      | shape     | dtype | meaning                                                                   |
|----------|-----------|-------|---------------------------------------------------------------------------|
| instance | [N, H, W] | uint8 | a number for each object of the image, or NO_INSTANCE                     |

That is what the network sees. A training batch comes to the device with image uint8 [N, H, W, 3], in 0..255, and, with
`data.augment.on_device`, with `parameters`, a dict of arrays [N, ...]; `segjax.data.augment.device_stage` makes of it
what is above.

For clips image is [N, T, H, W, 3] and label [N, T, H, W]. In evaluation index is then [N, T], and where states are
carried from batch to batch there is

| key   | shape | dtype | meaning                                                                         |
|-------|-------|-------|---------------------------------------------------------------------------------|
| reset | [N]   | bool  | this row begins a clip, so that the state from the batch before does not count  |

A padded example has index -1, a zero image and a label of IGNORE_LABEL everywhere, so that losses and
confusion matrices pass over it without a special case.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

IGNORE_LABEL = 255
"""The value that marks a pixel as not labelled, in every label array in memory.

Files may use another value (CamVid: 11, or none); each data set maps its own to this one when it reads.
"""

NO_INSTANCE = 255
"""The number of a pixel that belongs to no object: of the background, or not labelled."""

MEMORY = "memory"
"""The collection of a model's variables that holds the states of clips, each [N, ...], one a row of the batch."""

ATTENTION = "attention"
"""The collection where a model leaves its maps of attention, if a call makes it mutable."""

MAX_CLASSES = 255
"""Labels are uint8 and IGNORE_LABEL takes one value."""


def denormalise(
    image: jax.Array, *, mean: Sequence[float], std: Sequence[float], channel_order: str = "rgb"
) -> jax.Array:
    """The inverse of `segjax.data.augment.transforms.normalise` on the device: R, G, B float32 [..., H, W, 3], 0..255.

    Rounded, so that an image that was uint8 has its very values again.
    """
    image = image[..., ::-1] if channel_order == "bgr" else image
    image = image.astype(jnp.float32) * jnp.asarray(std, jnp.float32) + jnp.asarray(mean, jnp.float32)
    return jnp.clip(jnp.round(image), 0.0, 255.0)

"""What a model returns where it has more than one set of logits."""

import flax.struct
import jax


@flax.struct.dataclass
class Output:
    """The result of a model with auxiliary heads in training. (In evaluation such a model returns logits alone.)

    Attributes:
      logits: float32 [N, H, W, num_classes], of the main head.
      auxiliary: those of the auxiliary heads, each like `logits`. Their losses are added, weighted by
        config.loss.auxiliary.
    """

    logits: jax.Array
    auxiliary: tuple[jax.Array, ...]


@flax.struct.dataclass
class MaskOutput:
    """The result of a model that classifies masks, in training. (In evaluation it returns semantic logits alone.)

    Attributes:
      class_logits: float32 [N, Q, num_classes + 1] of each prediction, the last one final; the last class is "no
        object".
      mask_logits: float32 [N, Q, h, w] of each prediction, whose sigmoid is a mask.
      stride: side, in pixels of the image, of the square that one of h x w is; of those at the bottom and at the right
        a part may lie outside of the image. 0: they are as large as fits the image.
    """

    class_logits: tuple[jax.Array, ...]
    mask_logits: tuple[jax.Array, ...]
    stride: int = flax.struct.field(pytree_node=False, default=0)

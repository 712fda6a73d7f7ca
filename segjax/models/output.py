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

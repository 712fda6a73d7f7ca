"""Boundary F1 (BF): do the borders between classes lie where the label has them?

Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013, section 3, as
SegNet reports it (Badrinarayanan et al. 2017, section 4): unlike mIoU it sees thin things and ragged edges.
"""

import math

import jax
import jax.numpy as jnp

from segjax.core.batch import IGNORE_LABEL

TOLERANCE = 0.0075
"""How far apart two borders may lie to count as the same: this share of the image's diagonal (both papers)."""


def boundary_f1(prediction: jax.Array, label: jax.Array, num_classes: int, tolerance: float = TOLERANCE) -> jax.Array:
    """Each image's mean of F1 over the classes whose border is in its label: float32 [N], 0..1.

    A border pixel of a class has a pixel of another class above, below, left or right of it. Precision is the share of
    the predicted border pixels within the tolerance of one in the label; recall the other way round. A class with no
    predicted border has 0. Unlabelled pixels have no class, and neither they nor the image's edge make a border.

    Args:
      prediction: integers [N, H, W], 0..C-1.
      label: integers [N, H, W], a class or IGNORE_LABEL.
      num_classes: C.
      tolerance: share of the diagonal of [H, W], which must therefore be the image's own size, without padding.
    Returns:
      NaN for an image whose label has no border.
    """
    height, width = label.shape[1:3]
    reach = tolerance * math.hypot(height, width)
    label = label.astype(jnp.int32)
    prediction = jnp.where(label == IGNORE_LABEL, IGNORE_LABEL, prediction.astype(jnp.int32))

    def of_class(index):
        drawn, wanted = _border(prediction, index), _border(label, index)
        hit, found = (drawn & near(wanted, reach)), (wanted & near(drawn, reach))
        hit, drawn, found, wanted = (pixels.sum((1, 2)) for pixels in (hit, drawn, found, wanted))
        precision, recall = hit / jnp.maximum(drawn, 1), found / jnp.maximum(wanted, 1)
        return 2 * precision * recall / jnp.maximum(precision + recall, 1e-12), wanted > 0

    f1, present = jax.lax.map(of_class, jnp.arange(num_classes))
    return jnp.where(present, f1, 0.0).sum(0) / present.sum(0)


def _border(classes, index):
    """bool [N, H, W]: pixels of the class with a 4-neighbour of another one."""
    mine, other = classes == index, (classes != index) & (classes != IGNORE_LABEL)
    padded = jnp.pad(other, ((0, 0), (1, 1), (1, 1)))
    beside = padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
    return mine & beside


def near(border, reach):
    """bool [N, H, W]: pixels within `reach` pixels of one that is set, row by row of the disc."""
    height, width = border.shape[1:3]
    radius = min(math.floor(reach), max(height, width))
    padded = jnp.pad(border, ((0, 0), (radius, radius), (radius + 1, radius)))
    before = jnp.cumsum(padded, axis=2, dtype=jnp.int32)  # how many are set up to here
    near = jnp.zeros_like(border)
    for row in range(-radius, radius + 1):
        half = min(math.floor(math.sqrt(reach**2 - row**2)), radius)
        rows = before[:, radius + row : radius + row + height]
        last, first = radius + half + 1, radius - half
        near |= rows[:, :, last : last + width] > rows[:, :, first : first + width]
    return near

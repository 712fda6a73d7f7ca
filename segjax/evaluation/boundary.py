"""Do the borders between classes lie where the label has them? Unlike mIoU these scores see thin things, ragged edges.

Boundary F1 (BF): Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC
2013, section 3, of each class in each image. SegNet reports its mean over the classes of an image and then over the
images (Badrinarayanan et al. 2017, section 4); the mean over a class's images and then over the classes is given too.

Boundary IoU: Cheng, Girshick, Dollar, Berg and Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", CVPR 2021, arXiv:2103.16562, with the conventions of the authors' code (bowenc0221/boundary-iou-api).

Trimap: scores of the pixels near a border alone. Kohli, Ladicky and Torr 2009; Kraehenbuehl and Koltun 2011 (pixel
error, arXiv:1210.5644); DeepLab (mIoU, arXiv:1412.7062).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.evaluation import metrics
from segjax.evaluation.score import Score, finite_mean, finite_means

TOLERANCE = 0.0075
"""How far apart two borders may lie to count as the same: this share of the image's diagonal (both papers)."""

BAND = 0.02
"""How wide Boundary IoU's bands are: this share of the image's diagonal."""


def f1_score(num_classes: int) -> Score:
    """`boundary_f1`, SegNet's mean; `boundary_f1_class` float [C], over images; `class_boundary_f1`, the mean of these.

    An image counts for the classes whose border is in its label; NaN for a class without one in any image.
    """

    def measure(probabilities, prediction, label):
        return boundary_f1(prediction, label, num_classes)

    def conclude(values):
        of_class = finite_means(values)
        return {
            "boundary_f1": finite_mean(finite_means(values.T)),
            "boundary_f1_class": of_class,
            "class_boundary_f1": finite_mean(of_class),
        }

    return Score(measure, conclude)


def boundary_f1(prediction: jax.Array, label: jax.Array, num_classes: int, tolerance: float = TOLERANCE) -> jax.Array:
    """F1 of the border of each class in each image: float32 [N, C], 0..1.

    A border pixel of a class has a pixel of another class above, below, left or right of it. Precision is the share of
    the predicted border pixels within the tolerance of one in the label; recall the other way round. A class with no
    predicted border has 0. Unlabelled pixels have no class, and neither they nor the image's edge make a border.

    Args:
      prediction: integers [N, H, W], 0..C-1.
      label: integers [N, H, W], a class or IGNORE_LABEL.
      num_classes: C.
      tolerance: share of the diagonal of [H, W], which must therefore be the image's own size, without padding.
    Returns:
      NaN for a class whose border is not in the image's label.
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
        f1 = 2 * precision * recall / jnp.maximum(precision + recall, 1e-12)
        return jnp.where(wanted > 0, f1, jnp.nan)

    return jax.lax.map(of_class, jnp.arange(num_classes)).T


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


def iou_score(num_classes: int) -> Score:
    """`boundary_iou` float [C], from sums over the split, NaN for a class without a band; `boundary_mIoU`, its mean."""

    def conclude(counts):
        iou = np.divide(*counts, out=np.full(num_classes, np.nan), where=counts[1] > 0)
        return {"boundary_iou": iou, "boundary_mIoU": finite_mean(iou)}

    def measure(probabilities, prediction, label):
        return boundary_iou_counts(prediction, label, num_classes)

    return Score(measure, conclude, counts=(2, num_classes))


def boundary_iou_counts(prediction: jax.Array, label: jax.Array, num_classes: int, band: float = BAND) -> jax.Array:
    """Intersection and union of the bands along the inside of each class's contour: int32 [N, 2, C].

    As in the authors' code the band of a mask is what d erosions by a 3x3 square remove, d = round(band * diagonal) and
    at least 1, and the image's edge is a contour too: pixels outside of the image belong to no class. Neither do
    unlabelled pixels, of the label or of the prediction, so that both have a contour along them.

    Args:
      prediction: integers [N, H, W], 0..C-1.
      label: integers [N, H, W], a class or IGNORE_LABEL.
      band: share of the diagonal of [H, W], which must therefore be the image's own size, without padding.
    """
    reach = max(1, round(band * math.hypot(*label.shape[1:3])))
    label = label.astype(jnp.int32)
    prediction = jnp.where(label == IGNORE_LABEL, IGNORE_LABEL, prediction.astype(jnp.int32))
    drawn, wanted = _near_another(prediction, reach), _near_another(label, reach)
    drawn, wanted = jnp.where(drawn, prediction, num_classes), jnp.where(wanted, label, num_classes)
    both = jnp.where(drawn == wanted, drawn, num_classes)

    def sizes(classes):
        flat = classes.reshape(classes.shape[0], -1)
        return jax.vmap(lambda index: jnp.zeros(num_classes, jnp.int32).at[index].add(1, mode="drop"))(flat)

    intersection = sizes(both)
    return jnp.stack([intersection, sizes(drawn) + sizes(wanted) - intersection], 1)


def _near_another(classes, reach):
    """bool [N, H, W]: a pixel of another class, or the outside, lies in the square of 2 reach + 1 around the pixel.

    Of a whole window all pixels are alike where all of its rows are, and its middle column is.
    """

    def alike(same, axis):
        """`same`: whether a pixel is like the one before it. -> whether all are alike from -reach to +reach."""
        length = same.shape[axis]
        if length < 2 * reach + 1:
            return jnp.zeros_like(same)
        changes = jnp.cumsum(~same, axis, dtype=jnp.int32)
        ahead = jax.lax.slice_in_dim(changes, 2 * reach, length, axis=axis)
        behind = jax.lax.slice_in_dim(changes, 0, length - 2 * reach, axis=axis)
        pad = [(0, 0)] * 3
        pad[axis] = (reach, reach)
        return jnp.pad(ahead == behind, pad)

    def like_before(axis):
        first = jnp.ones_like(jax.lax.slice_in_dim(classes, 0, 1, axis=axis), bool)
        return jnp.concatenate([first, jnp.diff(classes, axis=axis) == 0], axis)

    row = alike(like_before(2), 2)
    # Rows without a change, as a run without a break: a break before a pixel and one at it count alike.
    whole = jnp.pad(jnp.cumsum(~row, 1, dtype=jnp.int32), ((0, 0), (1, 0), (0, 0)))
    height = classes.shape[1]
    if height < 2 * reach + 1:
        return jnp.ones_like(row)
    rows = jnp.pad(whole[:, 2 * reach + 1 :] == whole[:, : height - 2 * reach], ((0, 0), (reach, reach), (0, 0)))
    return ~(rows & alike(like_before(1), 1))


def trimap_score(num_classes: int, widths: tuple[int, ...]) -> Score:
    """`trimap_mIoU_<w>` and `trimap_error_<w>`, the share of wrong pixels, for each width w in pixels.

    Both are those of the confusion matrix of `trimap_confusion`, summed over the split.
    """

    def measure(probabilities, prediction, label):
        return trimap_confusion(prediction, label, num_classes, widths)

    def conclude(counts):
        found = [(width, metrics.scores(matrix)) for width, matrix in zip(widths, counts, strict=True)]
        return {f"trimap_mIoU_{width}": of["mIoU"] for width, of in found} | {
            f"trimap_error_{width}": 1 - of["pixel_accuracy"] for width, of in found
        }

    return Score(measure, conclude, counts=(len(widths), num_classes, num_classes))


def trimap_confusion(prediction: jax.Array, label: jax.Array, num_classes: int, widths: tuple[int, ...]) -> jax.Array:
    """The confusion matrix of the pixels in a band along the label's borders: int32 [N, len(widths), C, C].

    A border pixel has another label above, below, left or right of it, and the band of width w holds the pixels at most
    w - 1 from a border pixel: so w pixels on either side of a straight border. Unlabelled pixels count as another label
    when borders are looked for, since PASCAL's lie along its objects' outlines (DeepLab takes those alone); they
    themselves are not scored. The image's edge is no border.

    Args: as in `boundary_iou_counts`; widths are whole pixels, 1 or more.
    """
    label = label.astype(jnp.int32)
    down, right = jnp.diff(label, axis=1) != 0, jnp.diff(label, axis=2) != 0
    edge = jnp.pad(down, ((0, 0), (1, 0), (0, 0))) | jnp.pad(down, ((0, 0), (0, 1), (0, 0)))
    edge |= jnp.pad(right, ((0, 0), (0, 0), (1, 0))) | jnp.pad(right, ((0, 0), (0, 0), (0, 1)))
    distance = squared_distance(edge, max(widths) - 1)

    def of_width(width):
        inside = jnp.where(distance <= (width - 1) ** 2, label, IGNORE_LABEL)
        return metrics.per_image_confusion(prediction, inside, num_classes)

    return jnp.moveaxis(jax.lax.map(of_width, jnp.array(widths)), 0, 1)


def squared_distance(mask: jax.Array, reach: int) -> jax.Array:
    """Squared distance of each pixel to the nearest one that is set, where that is at most reach: int32 [N, H, W].

    Farther ones have some number above reach squared. First along the columns, then over the columns near by.
    """
    height, width = mask.shape[1:]
    far = reach + 1
    row = jnp.arange(height)[:, None]
    above = row - jax.lax.cummax(jnp.where(mask, row, -far), 1)
    below = jax.lax.cummin(jnp.where(mask, row, height + far), 1, reverse=True) - row
    column = jnp.minimum(jnp.minimum(above, below), far) ** 2
    padded = jnp.pad(column, ((0, 0), (0, 0), (reach, reach)), constant_values=far**2)

    def nearer(step, nearest):
        return jnp.minimum(nearest, jax.lax.dynamic_slice_in_dim(padded, step, width, 2) + (step - reach) ** 2)

    return jax.lax.fori_loop(0, 2 * reach + 1, nearer, jnp.full_like(column, far**2))

"""Scores of predictions over the frames of clips: temporal consistency, and DAVIS's J and F.

J and F: Perazzi et al. 2016, "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 5, with the conventions of the authors' code (github.com/fperazzi/davis), which says what the paper leaves open.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.evaluation.boundary import near
from segjax.evaluation.score import Score

TOLERANCE = 0.008
"""How far apart two boundaries may lie to count as the same: this share of the diagonal, rounded up to whole pixels."""

RECALL_AT = 0.5
"""A frame counts as found where its score is above this."""


def temporal_consistency(prediction: jax.Array, before: jax.Array, follows: jax.Array, num_classes: int) -> jax.Array:
    """Mean IoU of each prediction with that of the frame before it, over the classes in either: float32 [N], 0..1.

    No optical flow is taken out, so that motion in the scene lowers it too: it compares networks on the same clips.

    Args:
      prediction, before: integers [N, H, W], 0..C-1.
      follows: bool [N], False for the first frame of a clip.
    Returns:
      NaN where there is no frame before.
    """

    def of_class(index):
        ours, others = prediction == index, before == index
        union = (ours | others).sum((1, 2))
        return (ours & others).sum((1, 2)) / jnp.maximum(union, 1), union > 0

    iou, present = jax.lax.map(of_class, jnp.arange(num_classes))
    mean = jnp.where(present, iou, 0.0).sum(0) / present.sum(0)
    return jnp.where(follows, mean, jnp.nan)


def davis_j(prediction: jax.Array, label: jax.Array, num_classes: int) -> jax.Array:
    """J, the IoU of each object's region in each frame: float32 [N, C - 1]; the objects are the classes 1..C-1.

    1 where an object is neither in the prediction nor in the label. Unlabelled pixels are left out; a frame without a
    labelled pixel has NaN.
    """
    labelled = label != IGNORE_LABEL

    def of_class(index):
        drawn, wanted = (prediction == index) & labelled, label == index
        union = (drawn | wanted).sum((1, 2))
        return jnp.where(union > 0, (drawn & wanted).sum((1, 2)) / jnp.maximum(union, 1), 1.0)

    return _labelled_frames(jax.lax.map(of_class, jnp.arange(1, num_classes)).T, label)


def davis_f(prediction: jax.Array, label: jax.Array, num_classes: int) -> jax.Array:
    """F, the boundary measure of each object in each frame: float32 [N, C - 1]; the objects are the classes 1..C-1.

    F1 of precision and recall of the boundaries' pixels, which match where the other boundary is within the tolerance,
    a disc. As in the authors' code no boundary on either side gives 1, one alone 0. An object has no pixels where the
    label is unlabelled; a frame without a labelled pixel has NaN.

    Args:
      prediction, label: integers [N, H, W], of the image's own size: the tolerance refers to its diagonal.
    """
    reach = math.ceil(TOLERANCE * math.hypot(*label.shape[1:3]))
    prediction = jnp.where(label == IGNORE_LABEL, IGNORE_LABEL, prediction.astype(jnp.int32))

    def of_class(index):
        drawn, wanted = boundary_map(prediction == index), boundary_map(label == index)
        hit, found = (drawn & near(wanted, reach)), (wanted & near(drawn, reach))
        hit, drawn, found, wanted = (pixels.sum((1, 2)) for pixels in (hit, drawn, found, wanted))
        precision, recall = hit / jnp.maximum(drawn, 1), found / jnp.maximum(wanted, 1)
        f1 = 2 * precision * recall / jnp.maximum(precision + recall, 1e-12)
        return jnp.where((drawn == 0) & (wanted == 0), 1.0, f1)

    return _labelled_frames(jax.lax.map(of_class, jnp.arange(1, num_classes)).T, label)


def boundary_map(mask: jax.Array) -> jax.Array:
    """bool [N, H, W]: pixels that differ from the one to the right, below, or to the right below (`seg2bmap`)."""
    right, below = jnp.pad(mask, ((0, 0), (0, 0), (0, 1)), "edge"), jnp.pad(mask, ((0, 0), (0, 1), (0, 0)), "edge")
    both = jnp.pad(mask, ((0, 0), (0, 1), (0, 1)), "edge")
    # At the edges the two neighbours inside count, and the last pixel has none.
    return (mask != right[:, :, 1:]) | (mask != below[:, 1:]) | (mask != both[:, 1:, 1:])


def _labelled_frames(scores, label):
    return jnp.where((label != IGNORE_LABEL).any((1, 2))[:, None], scores, jnp.nan)


def davis_score(num_classes: int, clips: Sequence[Sequence[int]]) -> Score:
    """DAVIS's scores of `davis_means`; clips are the indices of each clip's frames in the split."""

    def measure(probabilities, prediction, label):
        return davis_j(prediction, label, num_classes), davis_f(prediction, label, num_classes)

    return Score(measure, lambda values: davis_means(*values, clips))


def davis_means(j: np.ndarray, f: np.ndarray, clips: Sequence[Sequence[int]]) -> dict[str, float]:
    """Means over each object's frames in a clip, and then over objects and clips, of J and F [frames, objects].

    The first and the last frame of a clip of three or more do not count, whatever the task, as in the authors' code.
    An object that is in no frame of a clip counts there too, where it was rightly not drawn.

    Returns:
      J_mean, J_recall (the share of frames above 0.5), J_decay (the mean of the first quarter of the frames minus that
      of the last; the authors' quarters overlap by a frame), the same of F, and J&F, the mean of the two means.
    """
    found = {}
    for name, scores in (("J", j), ("F", f)):
        tracks = [scores[list(clip)[1:-1] if len(clip) > 2 else list(clip)] for clip in clips]
        tracks = [track[np.isfinite(track).all(1)] for track in tracks]
        tracks = [column for track in tracks if len(track) for column in track.T]
        found[f"{name}_mean"] = _mean([track.mean() for track in tracks])
        found[f"{name}_recall"] = _mean([(track > RECALL_AT).mean() for track in tracks])
        quarters = [np.array_split(track, 4) for track in tracks if len(track) >= 4]
        found[f"{name}_decay"] = _mean([parts[0].mean() - parts[-1].mean() for parts in quarters])
    return {**found, "J&F": (found["J_mean"] + found["F_mean"]) / 2}


def _mean(values):
    return float(np.mean(values)) if values else float("nan")

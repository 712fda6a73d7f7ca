"""From classified masks to segments of an image, and their scores over a split.

Cheng et al. 2021 (MaskFormer, arXiv:2107.06278), sections 3.4 and 4.2, and Cheng et al. 2022 (Mask2Former,
arXiv:2112.01527), section 4.1 and its code: panoptic and instance inference.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from segjax.core.batch import IGNORE_LABEL, NO_INSTANCE
from segjax.core.softmax import not_finite
from segjax.evaluation import panoptic

LEAST_SCORE = 0.8
"""Queries that are less sure of their class are left out of a panoptic map, as in the authors' configs."""

LEAST_VISIBLE = 0.8
"""So much of a mask must be in front of the others for it to be a segment."""

MOST_DETECTIONS = 100


def panoptic_map(classes: np.ndarray, masks: np.ndarray, things: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel goes to the query for which class times mask is most likely.

    Args:
      classes: float32 [Q, C + 1], probabilities; the last is that of "no object".
      masks: float32 [Q, H, W], probabilities.
      things: classes of which each query is an instance; of the others there is one segment.
    Returns:
      (predicted, index): uint8 [H, W] each, as `panoptic.panoptic_counts` takes them; IGNORE_LABEL where there is none.
    """
    score, number = classes.max(-1), classes.argmax(-1)
    kept = np.flatnonzero((number != classes.shape[-1] - 1) & (score > LEAST_SCORE))
    predicted = np.full(masks.shape[1:], IGNORE_LABEL, np.uint8)
    index = np.zeros(masks.shape[1:], np.uint8)
    if len(kept) > 256:
        raise ValueError(f"a panoptic map has at most 256 segments; {len(kept)} queries are sure of a class")
    if not len(kept):
        return predicted, index
    front = (score[kept, None, None] * masks[kept]).argmax(0)
    for place, query in enumerate(kept):
        mask, won = masks[query] >= 0.5, front == place
        visible = mask & won
        # As the authors count: what a query wins, surely or not, in parts of its own mask.
        if visible.any() and won.sum() >= LEAST_VISIBLE * mask.sum():
            predicted[visible] = number[query]
            index[visible] = place if number[query] in things else 0
    return predicted, index


def detections(
    classes: np.ndarray, masks: np.ndarray, things: Collection[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most likely pairs of a query and a class, each an instance.

    Args: as in `panoptic_map`.
    Returns:
      (masks bool [D, H, W], classes int [D], scores float [D]), D = MOST_DETECTIONS at most. The score is the
      probability of the class times the mean of the mask's probabilities inside of it.
    """
    things = np.array(sorted(things), int)
    likely = classes[:, things]
    chosen = np.argsort(-likely, axis=None, kind="stable")[:MOST_DETECTIONS]
    query, column = np.unravel_index(chosen, likely.shape)
    inside = masks[query] > 0.5
    area = inside.sum((1, 2))
    sure = (masks[query] * inside).sum((1, 2)) / np.maximum(area, 1)
    keep = area > 0
    return inside[keep], things[column[keep]], (likely.ravel()[chosen] * sure)[keep]


def score_segments(
    batches: Iterable[Mapping[str, np.ndarray]],
    predict: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    instance_of: Callable[[int], np.ndarray],
    num_classes: int,
    things: Collection[int],
) -> dict[str, Any]:
    """Panoptic quality and average precision over a split.

    Args:
      batches: of `segjax.data.pipeline.evaluation_batches`.
      predict: image [N, H, W, 3] -> (classes [N, Q, C + 1], masks [N, Q, H, W]), probabilities.
      instance_of: index of an example -> its instance map, uint8 [H, W]. Pixels of a thing's class without an instance
        are a group of objects: for these scores they are unlabelled, and a detection that lies on them by more than
        half counts nowhere. (cocoapi and panopticapi take a group as such for detections of its own class only.)
    Returns:
      {"PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "AP", "AP50": numbers in 0..1, means over classes that occur}.
    """
    counts, matches = [], []
    for batch in batches:
        classes, masks = predict(batch["image"])
        broken = batch["index"][~(np.isfinite(classes).all((1, 2)) & np.isfinite(masks).all((1, 2, 3)))]
        if (broken >= 0).any():
            raise not_finite(f"those of the examples {broken[broken >= 0].tolist()} are not")
        for row, number in enumerate(batch["index"].tolist()):
            if number < 0:
                continue
            height, width = batch["size"][row]
            label, instance = batch["label"][row, :height, :width], instance_of(number)
            mine = classes[row], masks[row, :, :height, :width]
            group = np.isin(label, list(things)) & (instance == NO_INSTANCE)
            label = np.where(group, np.uint8(IGNORE_LABEL), label)
            index = np.where(instance == NO_INSTANCE, 0, instance)
            counts.append(panoptic.panoptic_counts(*panoptic_map(*mine, things), label, index, num_classes))
            true_masks, true_classes = _true_instances(label, instance)
            found = _outside(group, *detections(*mine, things))
            matches.append(panoptic.match_detections(*found, true_masks, true_classes, num_classes))
    quality = panoptic.panoptic_quality(panoptic.add_counts(counts))
    precision = panoptic.average_precision(matches)
    is_thing = np.isin(np.arange(num_classes), list(things))
    return {
        **{name: _mean(values) for name, values in quality.items()},
        "PQ_things": _mean(quality["PQ"][is_thing]),
        "PQ_stuff": _mean(quality["PQ"][~is_thing]),
        "AP": _mean(precision),
        "AP50": _mean(precision[0]),
    }


def _true_instances(label, instance):
    """(bool [G, H, W], int [G]) of the objects that have a labelled pixel."""
    there = (instance != NO_INSTANCE) & (label != IGNORE_LABEL)
    numbers, first = np.unique(np.where(there, instance, NO_INSTANCE), return_index=True)
    first, numbers = first[numbers != NO_INSTANCE], numbers[numbers != NO_INSTANCE]
    masks = there & (instance == numbers[:, None, None])
    return masks, label.ravel()[first].astype(int)


def _outside(group, masks, classes, scores):
    """Detections without what lies on groups; none of those that do by more than half."""
    outside = masks & ~group
    keep = 2 * outside.sum((1, 2)) >= masks.sum((1, 2))
    return outside[keep], classes[keep], scores[keep]


def _mean(values):
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")

"""Scores of segments, where a segment is a class of an image or one of its instances: panoptic quality and AP.

Kirillov, He, Girshick, Rother and Dollar, "Panoptic Segmentation", CVPR 2019, arXiv:1801.00868, sections 4.1 and 4.2,
for panoptic quality; Lin et al., "Microsoft COCO", ECCV 2014, arXiv:1405.0312, and its code cocoapi for average
precision. Everything is NumPy on the host: there are few segments, and counts of images add up.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segjax.core.batch import IGNORE_LABEL

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of the intersection over union in COCO's AP."""

STRIP = 64
"""Rows of masks that are multiplied at once."""

MOST_DETECTIONS = 100
"""Detections of one image and class that count, those with the highest scores."""

RECALLS = np.linspace(0, 1, 101)


class PanopticCounts(NamedTuple):
    """Of each class, over images. Two add up field by field, see `add_counts`.

    Attributes:
      iou: float64 [C], the sum over the matched segments.
      matched, alone, missed: int64 [C], true positives, predicted segments without one and true ones without one.
    """

    iou: np.ndarray
    matched: np.ndarray
    alone: np.ndarray
    missed: np.ndarray


def panoptic_counts(
    predicted: np.ndarray, predicted_index: np.ndarray, label: np.ndarray, index: np.ndarray, num_classes: int
) -> PanopticCounts:
    """Match the segments of one image: those of one class whose IoU is above 1/2, of which there is at most one each.

    Unlabelled pixels are in no union, and a predicted segment that lies on them by more than half counts nowhere.

    Args:
      predicted: integers [H, W], class of each pixel, or IGNORE_LABEL for none.
      predicted_index: integers [H, W], 0..255; pixels of one class and number are a segment.
      label, index: the same of the truth.
    """
    predicted, label = (np.asarray(array, np.int64) for array in (predicted, label))
    ours, of_pixel = np.unique(256 * predicted + predicted_index, return_inverse=True)
    theirs, of_label = np.unique(256 * label + index, return_inverse=True)
    shared = np.zeros((len(ours), len(theirs)), np.int64)
    np.add.at(shared, (of_pixel.ravel(), of_label.ravel()), 1)
    our_class, their_class = ours // 256, theirs // 256
    on_none = shared[:, their_class == IGNORE_LABEL].sum(1)
    area = shared.sum(1)
    keep_ours, keep_theirs = our_class != IGNORE_LABEL, their_class != IGNORE_LABEL
    union = (area - on_none)[:, None] + shared.sum(0) - shared
    iou = np.where(union > 0, shared / np.maximum(union, 1), 0.0)
    same = (our_class[:, None] == their_class) & keep_ours[:, None] & keep_theirs
    pairs = same & (iou > 0.5)
    found, counted = pairs.any(1), keep_ours & (2 * on_none <= area)

    def count(classes, chosen, weights=None):
        kept = None if weights is None else weights[chosen]
        return np.bincount(classes[chosen], kept, minlength=num_classes)

    return PanopticCounts(
        iou=count(our_class, found, np.where(pairs, iou, 0.0).sum(1)),
        matched=count(our_class, found),
        alone=count(our_class, counted & ~found),
        missed=count(their_class, keep_theirs & ~pairs.any(0)),
    )


def add_counts(counts: Sequence[PanopticCounts]) -> PanopticCounts:
    return PanopticCounts(*(np.sum(field, axis=0) for field in zip(*counts, strict=True)))


def panoptic_quality(counts: PanopticCounts) -> dict[str, np.ndarray]:
    """{"PQ", "SQ", "RQ": float64 [C], 0..1}: panoptic, segmentation and recognition quality, PQ = SQ * RQ.

    NaN for a class of which there is no segment, neither true nor predicted; SQ also where none was matched.
    """
    iou, matched, alone, missed = counts
    every = matched + alone / 2 + missed / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"PQ": iou / every, "SQ": iou / matched, "RQ": matched / every}


class Matches(NamedTuple):
    """The detections of one image, and what they found.

    Attributes:
      classes: int [D]. scores: float [D].
      hits: bool [T, D], whether it found a true segment at each threshold.
      truth: int64 [C], true segments of each class.
    """

    classes: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    truth: np.ndarray


def match_detections(
    masks: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    true_masks: np.ndarray,
    true_classes: np.ndarray,
    num_classes: int,
    thresholds: np.ndarray = THRESHOLDS,
) -> Matches:
    """Match the detections of one image as cocoapi does.

    In the order of their scores each takes the true segment of its class that it overlaps most, of those that no better
    one has taken, if the intersection over union is the threshold at least.

    Args:
      masks: bool [D, H, W]; classes: int [D]; scores: float [D].
      true_masks: bool [G, H, W]; true_classes: int [G].
    """
    order = np.argsort(-scores, kind="stable")
    rank = np.zeros(num_classes, np.int64)
    kept = []
    for each in order:
        rank[classes[each]] += 1
        if rank[classes[each]] <= MOST_DETECTIONS:
            kept.append(each)
    kept = np.array(kept, int)
    masks, classes, scores = masks[kept], classes[kept], scores[kept]
    shared = np.zeros((len(masks), len(true_masks)))
    for top in range(0, masks.shape[1], STRIP):  # as numbers they are several times as large
        ours, theirs = (of[:, top : top + STRIP].astype(np.float32) for of in (masks, true_masks))
        shared += np.einsum("dhw,ghw->dg", ours, theirs, optimize=True)
    union = masks.sum((1, 2))[:, None] + true_masks.sum((1, 2)) - shared
    iou = np.where(union > 0, shared / np.maximum(union, 1), 0.0)
    iou = np.where(classes[:, None] == true_classes, iou, -1.0)
    hits = np.zeros((len(thresholds), len(classes)), bool)
    for row, threshold in enumerate(thresholds):
        free = np.ones(len(true_classes), bool)
        for detection in range(len(classes)):
            open_iou = np.where(free, iou[detection], -1.0)
            if open_iou.size and open_iou.max() >= threshold:
                hits[row, detection] = True
                free[open_iou.argmax()] = False
    return Matches(classes, scores, hits, np.bincount(true_classes, minlength=num_classes))


def average_precision(images: Sequence[Matches]) -> np.ndarray:
    """AP of each threshold and class over images, float64 [T, C] in 0..1: NaN for a class without true segments.

    The mean over 101 recalls of the largest precision at that recall or a higher one, as in cocoapi. Its mean over both
    axes is COCO's AP, the first row's AP50.
    """
    truth = np.sum([image.truth for image in images], axis=0)
    classes = np.concatenate([image.classes for image in images])
    scores = np.concatenate([image.scores for image in images])
    hits = np.concatenate([image.hits for image in images], axis=1)
    order = np.argsort(-scores, kind="stable")
    classes, hits = classes[order], hits[:, order]
    found = np.full((len(hits), len(truth)), np.nan)
    for number in np.flatnonzero(truth):
        right = np.cumsum(hits[:, classes == number], axis=1)
        precision = right / np.arange(1, right.shape[1] + 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for row, recall in enumerate(right / truth[number]):
            place = np.searchsorted(recall, RECALLS, side="left")
            reached = np.append(envelope[row], 0.0)
            found[row, number] = reached[place].mean()
    return found

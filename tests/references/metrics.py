"""Slow, obvious versions of the scores: sets of pixels, one class and one pixel at a time."""

import math

import numpy as np

IGNORE = 255


def pixel_sets(prediction, label, num_classes):
    """For each class (pixels labelled with it, pixels predicted as it), among the labelled pixels."""
    labelled = [set() for _ in range(num_classes)]
    predicted = [set() for _ in range(num_classes)]
    for index in np.ndindex(label.shape):
        if label[index] != IGNORE:
            labelled[label[index]].add(index)
            predicted[prediction[index]].add(index)
    return labelled, predicted


def mean_of_defined(values):
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def scores(prediction, label, num_classes):
    labelled, predicted = pixel_sets(prediction, label, num_classes)
    total = sum(map(len, labelled))
    hits = sum(len(t & p) for t, p in zip(labelled, predicted, strict=True))
    iou, dice, accuracy, weighted = [], [], [], 0.0
    for t, p in zip(labelled, predicted, strict=True):
        iou.append(len(t & p) / len(t | p) if t | p else math.nan)
        dice.append(2 * len(t & p) / (len(t) + len(p)) if t | p else math.nan)
        accuracy.append(len(t & p) / len(t) if t else math.nan)
        if t:
            weighted += len(t) / total * iou[-1]
    return {
        "iou": iou,
        "mIoU": mean_of_defined(iou),
        "pixel_accuracy": hits / total if total else math.nan,
        "accuracy": accuracy,
        "mean_accuracy": mean_of_defined(accuracy),
        "frequency_weighted_iou": weighted if total else math.nan,
        "dice": dice,
        "mean_dice": mean_of_defined(dice),
    }


def per_image_iou_mean(prediction, label, num_classes):
    return mean_of_defined([scores(p, t, num_classes)["mIoU"] for p, t in zip(prediction, label, strict=True)])


def expected_calibration_error(confidence, prediction, label, bins=15):
    members = [[] for _ in range(bins)]
    for index in np.ndindex(label.shape):
        if label[index] != IGNORE:
            value = float(confidence[index])
            inside = [m for m in range(bins) if m / bins < value <= (m + 1) / bins]
            members[inside[0] if inside else 0].append((value, prediction[index] == label[index]))
    total = sum(map(len, members))
    error = 0.0
    for pixels in filter(None, members):
        confidences, corrects = zip(*pixels, strict=True)
        error += len(pixels) / total * abs(np.mean(corrects) - np.mean(confidences))
    return error if total else math.nan

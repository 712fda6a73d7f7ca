"""Statistics of studies, written naively from their definitions."""

import math


def miou(intersection, labelled, predicted):
    """Of three lists of one number a class; None where no class is there."""
    ious = []
    for inter, label, prediction in zip(intersection, labelled, predicted, strict=True):
        union = label + prediction - inter
        if union:
            ious.append(inter / union)
    return sum(ious) / len(ious) if ious else None


def row_score(runs, images):
    """Mean over runs, dicts id -> (intersection, labelled, predicted), of the mIoU of these images."""
    scores = []
    for run in runs:
        classes = len(next(iter(run.values()))[0])
        sums = [[sum(int(run[image][part][c]) for image in images) for c in range(classes)] for part in range(3)]
        scores.append(miou(*sums))
    return None if None in scores else sum(scores) / len(scores)


def percentile(values, fraction):
    """With linear interpolation between order statistics."""
    values = sorted(values)
    place = fraction * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def bootstrap_difference(ours, theirs, resamples, level=0.95):
    """(low, high, p) for resamples that are lists of ids."""
    differences = []
    for images in resamples:
        pair = row_score(ours, images), row_score(theirs, images)
        if None not in pair:
            differences.append(pair[0] - pair[1])
    below = sum(d <= 1e-12 for d in differences)
    above = sum(d >= -1e-12 for d in differences)
    p = min(1.0, 2 * (min(below, above) + 1) / (len(differences) + 1))
    return percentile(differences, (1 - level) / 2), percentile(differences, (1 + level) / 2), p


def holm_rejects(p_values, alpha):
    """Holm's procedure itself: from the smallest p on, reject while p <= alpha / (hypotheses that are left)."""
    rejected = [False] * len(p_values)
    left = sorted(range(len(p_values)), key=lambda index: p_values[index])
    while left and p_values[left[0]] <= alpha / len(left):
        rejected[left.pop(0)] = True
    return rejected

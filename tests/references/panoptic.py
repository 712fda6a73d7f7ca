"""Panoptic quality and average precision by loops over pairs of masks."""

import numpy as np


def segments(classes, index, ignore=255):
    """[(class, mask)] of an image."""
    found = []
    for k in np.unique(classes):
        if k != ignore:
            found += [(k, (classes == k) & (index == i)) for i in np.unique(index[classes == k])]
    return found


def panoptic(predicted, predicted_index, label, index, num_classes, ignore=255):
    """(PQ numerator, TP, FP, FN) of each class, as section 4.2 of Kirillov et al. 2019 says it."""
    void = label == ignore
    totals = np.zeros((4, num_classes))
    ours, theirs = segments(predicted, predicted_index), segments(label, index)
    taken = set()
    for k, mask in ours:
        best = None
        for number, (other, truth) in enumerate(theirs):
            union = ((mask & ~void) | truth).sum()
            if k == other and union and (mask & truth).sum() / union > 0.5:
                assert best is None and number not in taken, "the paper proves that matches are unique"
                best = number
                totals[0, k] += (mask & truth).sum() / union
                totals[1, k] += 1
                taken.add(number)
        if best is None and (mask & void).sum() <= mask.sum() / 2:
            totals[2, k] += 1
    for number, (k, _) in enumerate(theirs):
        totals[3, k] += number not in taken
    return totals


def average_precision(images, number, threshold):
    """AP of one class: [(masks, classes, scores, true masks, true classes)] of images."""
    detections = []
    truths = [[mask for mask, k in zip(image[3], image[4], strict=True) if k == number] for image in images]
    for place, (masks, classes, scores, _, _) in enumerate(images):
        detections += [(s, place, m) for m, k, s in zip(masks, classes, scores, strict=True) if k == number]
    count = sum(map(len, truths))
    if not count:
        return np.nan
    used = [[False] * len(each) for each in truths]
    right, wrong, curve = 0, 0, []
    for _, place, mask in sorted(detections, key=lambda each: -each[0]):
        overlaps = [
            -1 if used[place][n] else (mask & truth).sum() / max((mask | truth).sum(), 1)
            for n, truth in enumerate(truths[place])
        ]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best >= 0 and overlaps[best] >= threshold:
            used[place][best] = True
            right += 1
        else:
            wrong += 1
        curve.append((right / count, right / (right + wrong)))
    return np.mean([max([p for r, p in curve if r >= recall], default=0.0) for recall in np.linspace(0, 1, 101)])

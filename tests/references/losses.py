"""Slow, obvious versions of the losses: float64 NumPy, one pixel at a time, from the papers' formulas."""

import numpy as np

IGNORE = 255


def labelled_pixels(logits, label):
    """[(logits of the pixel [C], its class)] of the pixels that are not ignored."""
    logits = np.asarray(logits, np.float64).reshape(-1, logits.shape[-1])
    return [(row, int(value)) for row, value in zip(logits, np.asarray(label).ravel(), strict=True) if value != IGNORE]


def labelled_weights(label, weight):
    """What is added to the weight of each pixel that is not ignored, in the order of `labelled_pixels`."""
    weight = np.zeros(np.shape(label)) if weight is None else np.asarray(weight, np.float64)
    return [float(extra) for extra, value in zip(weight.ravel(), np.ravel(label), strict=True) if value != IGNORE]


def softmax(row):
    exponential = np.exp(row - row.max())
    return exponential / exponential.sum()


def cross_entropy(logits, label, class_weights=None, label_smoothing=0.0, weight=None):
    classes = logits.shape[-1]
    weights = np.ones(classes) if class_weights is None else np.asarray(class_weights, np.float64)
    numerator = denominator = 0.0
    for (row, target), extra in zip(labelled_pixels(logits, label), labelled_weights(label, weight), strict=True):
        wanted = np.full(classes, label_smoothing / classes)
        wanted[target] += 1 - label_smoothing
        numerator += (weights[target] + extra) * -(wanted * np.log(softmax(row))).sum()
        denominator += weights[target] + extra
    return numerator / denominator if denominator else 0.0


def focal(logits, label, gamma=2.0, alpha=None, weight=None):
    weights = np.ones(logits.shape[-1]) if alpha is None else np.asarray(alpha, np.float64)
    numerator = denominator = 0.0
    for (row, target), extra in zip(labelled_pixels(logits, label), labelled_weights(label, weight), strict=True):
        probability = softmax(row)[target]
        numerator += (weights[target] + extra) * (1 - probability) ** gamma * -np.log(probability)
        denominator += weights[target] + extra
    return numerator / denominator if denominator else 0.0


def dice(logits, label, smoothing=1.0):
    pixels = labelled_pixels(logits, label)
    losses = []
    for c in sorted({target for _, target in pixels}):
        overlap = sum(softmax(row)[c] for row, target in pixels if target == c)
        predicted = sum(softmax(row)[c] for row, _ in pixels)
        true = sum(target == c for _, target in pixels)
        losses.append(1 - (2 * overlap + smoothing) / (predicted + true + smoothing))
    return float(np.mean(losses)) if losses else 0.0


def jaccard_loss(mispredicted, foreground):
    """Berman et al. 2018, eq. 6: |M| / |foreground or M| for the set M of mispredicted pixels."""
    union = foreground | mispredicted
    return len(mispredicted) / len(union) if union else 0.0


def lovasz_softmax(logits, label):
    """Definition 1: sum over the sorted errors of m * (loss of the set with this pixel - of that without)."""
    pixels = labelled_pixels(logits, label)
    losses = []
    for c in sorted({target for _, target in pixels}):
        foreground = {i for i, (_, target) in enumerate(pixels) if target == c}
        errors = [1 - softmax(row)[c] if i in foreground else softmax(row)[c] for i, (row, _) in enumerate(pixels)]
        value, chosen = 0.0, set()
        for i in sorted(range(len(pixels)), key=lambda i: -errors[i]):
            before = jaccard_loss(chosen, foreground)
            chosen = chosen | {i}
            value += errors[i] * (jaccard_loss(chosen, foreground) - before)
        losses.append(value)
    return float(np.mean(losses)) if losses else 0.0


def ohem_cross_entropy(logits, label, class_weights=None, threshold=0.7, min_kept=100_000, weight=None):
    weights = np.ones(logits.shape[-1]) if class_weights is None else np.asarray(class_weights, np.float64)
    extra = labelled_weights(label, weight)
    rows = labelled_pixels(logits, label)
    pixels = [(softmax(row)[target], weights[target] + e) for (row, target), e in zip(rows, extra, strict=True)]
    pixels.sort()
    kept = [pixel for i, pixel in enumerate(pixels) if i < min_kept or pixel[0] < threshold]
    denominator = sum(weight for _, weight in kept)
    return sum(-weight * np.log(p) for p, weight in kept) / denominator if denominator else 0.0


def numerical_gradient(function, logits, step=1e-5):
    """Central differences of a function of float64 logits, at each of them."""
    logits = np.array(logits, np.float64)
    gradient = np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        kept = logits[index]
        logits[index] = kept + step
        above = function(logits)
        logits[index] = kept - step
        below = function(logits)
        logits[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient

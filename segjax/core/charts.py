"""Diagrams of an evaluation, as PNG: a confusion matrix, and how far the network's confidence can be relied on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

LARGEST_WITH_NUMBERS = 25
"""Classes up to which a confusion matrix has its numbers written in."""


def draw_confusion(path: str | Path, confusion: np.ndarray, class_names: Sequence[str]) -> None:
    """Each row of a confusion matrix as shares of its sum: what the pixels of a label were predicted as.

    Args:
      confusion: integers [C, C], rows are labels. A row without pixels stays grey.
    """
    from matplotlib.figure import Figure

    count = len(class_names)
    total = confusion.sum(1, keepdims=True)
    shares = np.ma.masked_invalid(np.divide(confusion, total, out=np.full(confusion.shape, np.nan), where=total > 0))
    numbers = count <= LARGEST_WITH_NUMBERS
    side = 2.5 + (0.45 if numbers else 0.13) * count
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("0.8")
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    text = {"fontsize": 9 if numbers else 6}
    axes.set_xticks(range(count), class_names, rotation=90, **text)
    axes.set_yticks(range(count), class_names, **text)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    percent = {"format": lambda value, _: f"{100 * value:.0f} %"}
    figure.colorbar(drawn, ax=axes, label="share of the label's pixels", shrink=0.8, aspect=30, **percent)
    if numbers:
        for row, column in zip(*np.nonzero(np.ma.filled(shares, 0) >= 0.005), strict=True):
            value = shares[row, column]
            colour = "white" if value > 0.6 else "black"
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=120)


def draw_reliability(path: str | Path, pixels: np.ndarray, accuracy: np.ndarray, confidence: np.ndarray) -> None:
    """A reliability diagram (Guo et al. 2017, "On calibration of modern neural networks").

    Above, the share of right pixels in each bin against their mean confidence, which agree on the diagonal; below, the
    share of all pixels that each bin has.

    Args:
      pixels, accuracy, confidence: [M], of M bins of equal width over 0..1; NaN in bins without a pixel.
    """
    from matplotlib.figure import Figure

    bins = len(pixels)
    left = np.arange(bins) / bins
    figure = Figure(figsize=(4.5, 6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    there = pixels > 0
    upper.bar(
        left[there], accuracy[there], 1 / bins, align="edge", color="tab:blue", edgecolor="white", label="accuracy"
    )
    upper.plot((0, 1), (0, 1), color="0.4", linestyle="--", label="perfect")
    upper.plot(confidence[there], accuracy[there], "o", color="tab:orange", label="at the bin's mean confidence")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    figure.legend(loc="outside lower center", fontsize=8, ncols=3)
    share = pixels / max(pixels.sum(), 1)
    lower.bar(left, share, 1 / bins, align="edge", color="0.5", edgecolor="white")
    lower.set(xlabel="confidence", ylabel="share of pixels", ylim=(0, 1))
    if there.any():
        right, sure = (float(np.average(values[there], weights=pixels[there])) for values in (accuracy, confidence))
        gap = np.sum(share[there] * np.abs(accuracy - confidence)[there])
        upper.set_title(
            f"accuracy {100 * right:.1f} %, confidence {100 * sure:.1f} %\ncalibration error {100 * gap:.2f} %",
            fontsize=10,
        )
    figure.savefig(path, dpi=120)

"""Diagrams, looked at by the colours of their pixels."""

import numpy as np
import pytest
from PIL import Image

from segjax.core.charts import draw_confusion, draw_reliability

DARK, GREY = np.array([8, 48, 107]), np.array([204, 204, 204])
"""The colour map's 1, and a row without pixels."""


def share_of(picture, colour):
    return (np.abs(picture.astype(int) - colour).max(-1) <= 3).mean()


@pytest.mark.parametrize("classes", [3, 40])
def test_rows_are_shares_of_their_label(tmp_path, classes):
    confusion = np.diag(np.arange(classes) * 10)  # the first class has no pixel
    draw_confusion(tmp_path / "a.png", confusion, [f"class {k}" for k in range(classes)])
    right = np.array(Image.open(tmp_path / "a.png").convert("RGB"))
    assert right.shape[0] > 300
    # (classes - 1) cells are dark, save for their numbers, and one row of so many is grey.
    assert share_of(right, DARK) > 0.5 * share_of(right, GREY) > 0.001
    draw_confusion(tmp_path / "b.png", np.ones((classes, classes), int), [""] * classes)
    even = np.array(Image.open(tmp_path / "b.png").convert("RGB"))
    assert share_of(even, DARK) < 0.2 * share_of(right, DARK)


def test_bars_of_reliability(tmp_path):
    pixels = np.zeros(5)
    draw_reliability(tmp_path / "none.png", pixels, np.full(5, np.nan), np.full(5, np.nan))
    pixels[4], accuracy, confidence = 10, np.full(5, np.nan), np.full(5, np.nan)
    accuracy[4], confidence[4] = 0.5, 0.9
    draw_reliability(tmp_path / "one.png", pixels, accuracy, confidence)
    blue = np.array([31, 119, 180])
    none, one = (np.array(Image.open(tmp_path / name).convert("RGB")) for name in ("none.png", "one.png"))
    assert share_of(one, blue) > 5 * share_of(none, blue)

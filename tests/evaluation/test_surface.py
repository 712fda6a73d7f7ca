"""Distances between surfaces against all pairs of their pixels."""

import numpy as np
import pytest
from scipy import ndimage

from segjax.evaluation.surface import NAMES, surface_distances, surface_score
from tests.references import contours


def blobs(rng, size, num_classes):
    noise = ndimage.gaussian_filter(rng.standard_normal((num_classes, *size)), (0, 2, 2))
    return noise.argmax(0).astype(np.uint8)


@pytest.mark.parametrize("size", [(20, 27), (1, 13), (9, 9)])
def test_equals_all_pairs(size):
    rng = np.random.default_rng(1)
    label, prediction = blobs(rng, size, 4), blobs(rng, size, 4)
    label[:, 3:5] = 255
    found = surface_distances(prediction, label, 5)
    masked = np.where(label == 255, 255, prediction)
    for index in range(5):
        drawn, wanted = masked == index, label == index
        if drawn.any() and wanted.any():
            np.testing.assert_allclose(found[:, index], contours.surface_distances(drawn, wanted), rtol=1e-12)
        else:
            expected = np.inf if drawn.any() or wanted.any() else np.nan
            np.testing.assert_array_equal(found[:, index], expected)


def test_by_hand():
    label = np.zeros((9, 12), np.uint8)
    label[3:6, 2:5] = 1
    moved = np.roll(label, 3, 1)
    # Each of 8 surface pixels, 3 columns to the right: the columns are 3, 2 and 1 away from the label's (and the row).
    found = surface_distances(moved, label, 3)
    np.testing.assert_allclose(found[:, 1], [3, 3, (3 * 3 + 2 * 2 + 3 * 1) / 8])
    assert np.isnan(found[:, 2]).all()
    pixel = np.zeros((5, 5), np.uint8)
    pixel[0, 0] = 1
    other = np.zeros((5, 5), np.uint8)
    other[3, 4] = 1
    np.testing.assert_array_equal(surface_distances(other, pixel, 2)[:, 1], 5)
    np.testing.assert_array_equal(surface_distances(pixel, pixel, 2), 0)
    assert np.isnan(surface_distances(pixel, np.full((5, 5), 255, np.uint8), 2)).all()


def test_means_leave_out_missed_classes_and_count_them():
    values = np.full((3, 3, 3), np.nan)
    values[0, :, 0], values[1, :, 0], values[2, :, 0] = 2, np.inf, 4
    values[0, :, 1] = np.inf
    found = surface_score(3).conclude(values)
    for name in NAMES:
        np.testing.assert_array_equal(found[name], [3, np.nan, np.nan])
        assert found[f"mean_{name}"] == 3
    np.testing.assert_array_equal(found["surface_missed"], [1, 1, 0])
    assert found["surface_misses"] == 2

"""Panoptic quality and AP against loops, and against cases that can be worked out by hand."""

import numpy as np
import pytest

from segjax.core.batch import IGNORE_LABEL
from segjax.evaluation import panoptic
from tests.references import panoptic as slow

CLASSES = 4


def rough(rng, like=None, size=(20, 24)):
    """(classes, index) of blocks; near another one where `like` is given."""
    classes = np.repeat(np.repeat(rng.integers(0, CLASSES, (5, 6)), 4, 0), 4, 1)
    index = np.repeat(np.repeat(rng.integers(0, 4, (5, 6)), 4, 0), 4, 1)
    if like is None:
        return classes, index
    keep = np.repeat(np.repeat(rng.random((5, 6)) < 0.7, 4, 0), 4, 1)
    return np.where(keep, like[0], classes), np.where(keep, like[1], index)


@pytest.mark.parametrize("seed", range(8))
def test_counts_are_those_of_loops_over_pairs(seed):
    rng = np.random.default_rng(seed)
    label, index = rough(rng)
    predicted, predicted_index = rough(rng, (label, index))
    label = np.where(rng.random(label.shape) < 0.2, IGNORE_LABEL, label)
    label[:4] = IGNORE_LABEL
    predicted = np.where(rng.random(label.shape) < 0.1, IGNORE_LABEL, predicted)
    counts = panoptic.panoptic_counts(predicted, predicted_index, label, index, CLASSES)
    expected = slow.panoptic(predicted, predicted_index, label, index, CLASSES)
    np.testing.assert_allclose(np.stack(counts), expected)
    assert expected[1].sum() > 0 and expected[2].sum() > 0


def test_a_case_by_hand():
    """Two instances of class 1, of 4 pixels each, of which one is found by 3 and the other by 1; class 2 is made up."""
    label = np.array([[1, 1, 1, 1, 1, 1, 1, 1]])
    index = np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
    predicted = np.array([[1, 1, 1, 2, 1, 2, 2, 2]])
    quality = panoptic.panoptic_quality(panoptic.panoptic_counts(predicted, index, label, index, 3))
    assert np.isnan(quality["PQ"][0])
    np.testing.assert_allclose(quality["SQ"][1], 3 / 4)
    np.testing.assert_allclose(quality["RQ"][1], 1 / 2)  # one found, one made up, one missed
    np.testing.assert_allclose(quality["PQ"][1], 3 / 8)
    assert quality["PQ"][2] == quality["RQ"][2] == 0 and np.isnan(quality["SQ"][2])


def test_perfect_and_images_add_up():
    label, index = rough(np.random.default_rng(0))
    one = panoptic.panoptic_counts(label, index, label, index, CLASSES)
    both = panoptic.add_counts([one, one])
    np.testing.assert_array_equal(both.matched, 2 * one.matched)
    np.testing.assert_allclose(panoptic.panoptic_quality(both)["PQ"], 1.0)


def test_nothing_labelled_counts_nothing():
    label = np.full((3, 4), IGNORE_LABEL)
    index = np.zeros_like(label)
    counts = panoptic.panoptic_counts(np.ones_like(label), index, label, index, CLASSES)
    assert not np.stack(counts).any()


def detections(rng, count, true_count):
    """Rectangles near true ones, with scores that are all different."""

    def rectangle(top, left, height, width):
        mask = np.zeros((16, 16), bool)
        mask[max(top, 0) : top + height, max(left, 0) : left + width] = True
        return mask

    corners = rng.integers(0, 11, (true_count, 2))
    true_masks = np.array([rectangle(*corner, 5, 5) for corner in corners]).reshape(-1, 16, 16)
    true_classes = rng.integers(0, 3, true_count)
    chosen = rng.integers(0, max(true_count, 1), count) if true_count else np.zeros(count, int)
    masks, classes = [], []
    for each in chosen:
        corner = corners[each] if true_count else (2, 2)
        masks.append(rectangle(*(corner + rng.integers(-1, 2, 2)), *rng.integers(4, 7, 2)))
        classes.append(true_classes[each] if true_count and rng.random() < 0.8 else rng.integers(0, 3))
    masks = np.array(masks).reshape(-1, 16, 16)
    return masks, np.array(classes, int), rng.permutation(count) / 100 + rng.random() / 1000, true_masks, true_classes


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_loops(seed):
    rng = np.random.default_rng(seed)
    images = [detections(rng, *counts) for counts in ((6, 4), (9, 5), (0, 2), (3, 0), (5, 3))]
    found = panoptic.average_precision([panoptic.match_detections(*image, CLASSES) for image in images])
    assert found.shape == (10, CLASSES)
    for row, threshold in enumerate(panoptic.THRESHOLDS):
        for number in range(CLASSES):
            np.testing.assert_allclose(found[row, number], slow.average_precision(images, number, threshold))
    assert np.isnan(found[:, 3]).all() and 0 < np.nanmean(found) < 1
    assert (np.diff(np.nanmean(found, 1)) <= 1e-12).all()  # a higher threshold finds no more


def test_a_better_detection_takes_the_segment_and_the_next_is_wrong():
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    image = panoptic.match_detections(
        np.stack([mask, mask, ~mask]), np.array([0, 0, 0]), np.array([0.5, 0.9, 0.95]), mask[None], np.array([0]), 1
    )
    # In the order of scores: wrong, right, wrong. The precision is 1/2 up to the only recall, 1.
    np.testing.assert_allclose(panoptic.average_precision([image])[0, 0], 0.5)


def test_only_the_best_hundred_of_a_class_count():
    masks = np.zeros((102, 1, 4), bool)
    masks[101] = True
    scores = np.linspace(1, 0, 102)
    image = panoptic.match_detections(masks, np.zeros(102, int), scores, masks[101:], np.array([0]), 1)
    assert len(image.scores) == 100 and panoptic.average_precision([image]).max() == 0

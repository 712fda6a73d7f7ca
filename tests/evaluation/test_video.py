"""Temporal consistency and DAVIS's J and F against loops over pixels."""

import math

import jax
import numpy as np
import pytest
from scipy import ndimage

from segjax.core.batch import IGNORE_LABEL
from segjax.evaluation import video
from tests.references import davis as reference

CLASSES = 4


def blobs(seed, shape=(5, 61, 83)):
    """Label maps of smooth regions, some classes missing in some."""
    noise = np.random.default_rng(seed).normal(size=(*shape, CLASSES))
    smooth = np.stack([ndimage.gaussian_filter(frame, (6, 6, 0)) for frame in noise])
    labels = smooth.argmax(-1).astype(np.uint8)
    labels[1][labels[1] == 2] = 0
    labels[2] = 0
    return labels


def shifted(labels, by):
    return np.roll(labels, by, axis=2)


@pytest.mark.parametrize("by", [0, 1, 4, 40])
def test_j_and_f_are_those_of_a_loop(by):
    label = blobs(0)
    prediction = shifted(label, by)
    prediction[3][prediction[3] == 1] = 0
    j, f = (jax.jit(score, static_argnums=2)(prediction, label, CLASSES) for score in (video.davis_j, video.davis_f))
    for frame in range(len(label)):
        for index in range(1, CLASSES):
            masks = prediction[frame] == index, label[frame] == index
            np.testing.assert_allclose(j[frame, index - 1], reference.region_iou(*masks), rtol=1e-6)
            np.testing.assert_allclose(f[frame, index - 1], reference.boundary_f(*masks), rtol=1e-5)
    if by == 0:
        kept = np.arange(len(label)) != 3
        np.testing.assert_allclose(j[kept], 1.0)
        np.testing.assert_allclose(f[kept], 1.0)


def test_unlabelled_pixels_are_left_out_and_unlabelled_frames_have_no_score():
    label = blobs(1)
    prediction = shifted(label, 3)
    label[:, :20] = IGNORE_LABEL
    label[4] = IGNORE_LABEL
    j, f = video.davis_j(prediction, label, CLASSES), video.davis_f(prediction, label, CLASSES)
    assert np.isnan(j[4]).all() and np.isnan(f[4]).all() and np.isfinite(j[:4]).all() and np.isfinite(f[:4]).all()
    other = prediction.copy()
    other[:, :20] = 1
    np.testing.assert_array_equal(j, video.davis_j(other, label, CLASSES))
    np.testing.assert_array_equal(f, video.davis_f(other, label, CLASSES))


def test_means_over_frames_then_over_objects_and_clips():
    """The ends of a clip of three or more are left out; unlabelled frames have no score."""
    j = np.array([[1.0, 0.2], [0.0, 0.4], [0.5, 0.6], [0.9, 0.8], [1.0, 1.0], [np.nan, np.nan], [0.3, 0.3]])
    found = video.davis_means(j, j / 2, [[6, 0, 1, 2, 3, 6], [5, 4]])
    assert video.davis_means(j, j, [[6, 2, 4]])["J_mean"] == np.mean([0.5, 0.6])
    tracks = [[1.0, 0.0, 0.5, 0.9], [0.2, 0.4, 0.6, 0.8], [1.0], [1.0]]
    np.testing.assert_allclose(found["J_mean"], np.mean([np.mean(track) for track in tracks]))
    np.testing.assert_allclose(found["J_recall"], np.mean([0.5, 0.5, 1.0, 1.0]))
    np.testing.assert_allclose(found["J_decay"], np.mean([1.0 - 0.9, 0.2 - 0.8]))
    np.testing.assert_allclose(found["F_mean"], found["J_mean"] / 2)
    np.testing.assert_allclose(found["J&F"], 0.75 * found["J_mean"])
    assert math.isnan(video.davis_means(j[:0], j[:0], [])["J&F"])


def test_temporal_consistency_is_the_mean_iou_with_the_frame_before():
    labels = blobs(2)
    before = np.concatenate([labels[:1], labels[:-1]])
    found = video.temporal_consistency(labels, before, np.array([False, True, True, True, True]), CLASSES)
    assert math.isnan(found[0])
    for frame in range(1, len(labels)):
        ious = []
        for index in range(CLASSES):
            a, b = labels[frame] == index, labels[frame - 1] == index
            if (a | b).any():
                ious.append((a & b).sum() / (a | b).sum())
        np.testing.assert_allclose(found[frame], np.mean(ious), rtol=1e-6)
    np.testing.assert_allclose(video.temporal_consistency(labels, labels, np.ones(5, bool), CLASSES), 1.0)

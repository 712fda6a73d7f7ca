"""Boundary F1 against SciPy's distance transform; Boundary IoU and trimaps against their definitions."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.evaluation.boundary import (
    TOLERANCE,
    boundary_f1,
    boundary_iou_counts,
    f1_score,
    iou_score,
    squared_distance,
    trimap_confusion,
    trimap_score,
)
from tests.references import contours


def reference(prediction, label, num_classes, tolerance):
    """One image, class by class, from the definition in Csurka et al. 2013."""
    height, width = label.shape
    reach = tolerance * math.hypot(height, width)
    prediction = np.where(label == 255, 255, prediction)

    def border(classes, index):
        found = np.zeros(classes.shape, bool)
        for y, x in np.argwhere(classes == index):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if 0 <= y + dy < height and 0 <= x + dx < width and classes[y + dy, x + dx] not in (index, 255):
                    found[y, x] = True
        return found

    scores = []
    for index in range(num_classes):
        drawn, wanted = border(prediction, index), border(label, index)
        if not wanted.any():
            scores.append(np.nan)
            continue
        if not drawn.any():
            scores.append(0.0)
            continue
        precision = (ndimage.distance_transform_edt(~wanted)[drawn] <= reach).mean()
        recall = (ndimage.distance_transform_edt(~drawn)[wanted] <= reach).mean()
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return scores


def blobs(rng, size, num_classes):
    """Smooth regions of some classes."""
    noise = ndimage.gaussian_filter(rng.standard_normal((num_classes, *size)), (0, 3, 3))
    return noise.argmax(0).astype(np.uint8)


@pytest.mark.parametrize("size", [(40, 53), (1, 30), (17, 17)])
@pytest.mark.parametrize("tolerance", [TOLERANCE, 0.03, 0.1, 2.0])
def test_equals_the_definition(size, tolerance):
    rng = np.random.default_rng(0)
    label = np.stack([blobs(rng, size, 4) for _ in range(3)])
    prediction = np.where(rng.random(label.shape) < 0.02, blobs(rng, size, 4), np.roll(label, 1, 2))
    label[1, :, 5:9] = 255
    found = boundary_f1(jnp.asarray(prediction), jnp.asarray(label), 5, tolerance)
    expected = [reference(p, t, 5, tolerance) for p, t in zip(prediction, label, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isnan(found).any()  # class 4 is nowhere


def test_means_over_images_and_over_classes():
    """Two images of three classes; the first has no border of the last class, the third image has none at all."""
    values = np.array([[0.5, 0.7, np.nan], [1.0, 0.0, 0.2], [np.nan] * 3])
    found = f1_score(3).conclude(values)
    np.testing.assert_allclose(found["boundary_f1"], (0.6 + 0.4) / 2)
    np.testing.assert_allclose(found["boundary_f1_class"], [0.75, 0.35, 0.2])
    np.testing.assert_allclose(found["class_boundary_f1"], 1.3 / 3)


def test_by_hand():
    label = np.zeros((1, 40, 30), np.uint8)  # its diagonal is 50
    label[:, :, 10:] = 1
    moved = np.roll(label, 2, 2)
    moved[:, :, :2] = 0
    assert (boundary_f1(label, label, 2) == 1).all()
    assert (boundary_f1(moved, label, 2, 0.04) == 1).all()  # 2 pixels
    assert (boundary_f1(moved, label, 2, 0.039) == 0).all()
    assert (boundary_f1(np.zeros_like(label), label, 2) == 0).all()


def test_images_without_a_border_have_no_score():
    label = np.stack([np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)])
    assert np.isnan(boundary_f1(np.ones_like(label), label, 2)).all()


def pairs(size, seed=0):
    """Labels and predictions of 4 classes: alike, with a strip without label, and without any."""
    rng = np.random.default_rng(seed)
    label = np.stack([blobs(rng, size, 4) for _ in range(3)])
    prediction = np.where(rng.random(label.shape) < 0.1, blobs(rng, size, 4), np.roll(label, 1, 2)).astype(np.uint8)
    label[1, :, 5:9] = 255
    label[2] = 255
    return prediction, label


@pytest.mark.parametrize(("size", "band"), [((31, 40), 0.07), ((17, 9), 0.02), ((1, 6), 0.5)])
def test_boundary_iou_equals_repeated_erosions(size, band):
    prediction, label = pairs(size)
    found = np.asarray(jax.jit(partial(boundary_iou_counts, num_classes=5, band=band))(prediction, label))
    expected = [contours.boundary_iou_counts(p, t, 5, band) for p, t in zip(prediction, label, strict=True)]
    np.testing.assert_array_equal(found, expected)
    assert found[:2].any() and not found[2].any()


def test_boundary_iou_by_hand():
    label = np.zeros((1, 6, 8), np.uint8)  # its diagonal is 10: the bands are one pixel wide
    measured = jax.jit(partial(boundary_iou_counts, num_classes=2))
    counts = np.asarray(measured(label, label))[0]
    np.testing.assert_array_equal(counts, [[24, 0], [24, 0]])  # the image's edge
    prediction = label.copy()
    prediction[0, 2, 3] = 1
    counts = np.asarray(measured(prediction, label))[0]
    np.testing.assert_array_equal(counts[:, 1], [0, 1])
    np.testing.assert_array_equal(counts[:, 0], [24, 24 + 8])  # and all around the pixel
    found = iou_score(3).conclude(np.array([[24, 0, 0], [31, 1, 0]]))
    np.testing.assert_allclose(found["boundary_iou"], [24 / 31, 0, np.nan])
    assert found["boundary_mIoU"] == pytest.approx(12 / 31)


@pytest.mark.parametrize("size", [(24, 30), (1, 12)])
def test_trimap_equals_the_definition(size):
    prediction, label = pairs(size)
    widths = (1, 2, 4, 50)
    found = np.asarray(jax.jit(partial(trimap_confusion, num_classes=4, widths=widths))(prediction, label))
    for image in range(3):
        for place, width in enumerate(widths):
            expected = contours.trimap_confusion(prediction[image], label[image], 4, width)
            np.testing.assert_array_equal(found[image, place], expected)
    assert not found[2].any()


def test_trimap_by_hand():
    label = np.zeros((1, 4, 10), np.uint8)
    label[:, :, 5:] = 1
    prediction = np.zeros_like(label)
    measured = jax.jit(partial(trimap_confusion, num_classes=2, widths=(1, 3)))
    counts = np.asarray(measured(prediction, label))[0]
    np.testing.assert_array_equal(counts, [[[4, 0], [4, 0]], [[12, 0], [12, 0]]])
    found = trimap_score(2, (1, 3)).conclude(counts)
    assert found == {"trimap_mIoU_1": 0.25, "trimap_mIoU_3": 0.25, "trimap_error_1": 0.5, "trimap_error_3": 0.5}
    border = np.where(label == 1, 255, 0).astype(np.uint8)  # only unlabelled pixels beside the class
    np.testing.assert_array_equal(measured(prediction, border)[0], [[[4, 0], [0, 0]], [[12, 0], [0, 0]]])
    assert not np.asarray(measured(label[:, :1, :1], label[:, :1, :1])).any()
    nowhere = trimap_score(2, (1,)).conclude(np.zeros((1, 2, 2), int))
    assert all(math.isnan(value) for value in nowhere.values())


@pytest.mark.parametrize("reach", [0, 7, 40])
def test_squared_distance_is_exact_up_to_its_reach(reach):
    rng = np.random.default_rng(0)
    mask = rng.random((3, 17, 22)) < 0.01
    mask[2] = False
    found = np.asarray(jax.jit(squared_distance, static_argnums=1)(mask, reach))
    for of, image in zip(found, mask, strict=True):
        expected = ndimage.distance_transform_edt(~image) ** 2 if image.any() else np.full(image.shape, np.inf)
        near = expected <= reach**2 + 1e-6
        np.testing.assert_allclose(of[near], expected[near], atol=1e-6)
        assert (of[~near] > reach**2).all()

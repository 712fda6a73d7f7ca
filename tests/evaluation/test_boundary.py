"""Boundary F1 against SciPy's distance transform."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.evaluation.boundary import TOLERANCE, boundary_f1


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
            continue
        if not drawn.any():
            scores.append(0.0)
            continue
        precision = (ndimage.distance_transform_edt(~wanted)[drawn] <= reach).mean()
        recall = (ndimage.distance_transform_edt(~drawn)[wanted] <= reach).mean()
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return np.mean(scores) if scores else np.nan


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


def test_by_hand():
    label = np.zeros((1, 40, 30), np.uint8)  # its diagonal is 50
    label[:, :, 10:] = 1
    moved = np.roll(label, 2, 2)
    moved[:, :, :2] = 0
    assert boundary_f1(label, label, 2) == 1
    assert boundary_f1(moved, label, 2, 0.04) == 1  # 2 pixels
    assert boundary_f1(moved, label, 2, 0.039) == 0
    assert boundary_f1(np.zeros_like(label), label, 2) == 0


def test_images_without_a_border_have_no_score():
    label = np.stack([np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)])
    assert np.isnan(boundary_f1(np.ones_like(label), label, 2)).all()

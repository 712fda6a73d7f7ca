"""The ISBI 2012 scores against scikit-learn's clusterings, floods pixel by pixel, and cases counted by hand."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix

from segjax.evaluation import em
from tests.references import em as reference


def cells(rng, size, level=0.0):
    return ndimage.gaussian_filter(rng.standard_normal(size), 1.3) > level


@pytest.mark.parametrize("seed", range(4))
def test_v_rand_and_v_info_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    wanted, drawn = reference.components(cells(rng, (21, 30))), reference.components(cells(rng, (21, 30), 0.1))
    rand, info = em.agreement(wanted, drawn)
    assert rand == pytest.approx(reference.v_rand(wanted, drawn), rel=1e-12)

    where = wanted > 0
    alone = drawn.max() + 1 + np.arange(drawn.size).reshape(drawn.shape)  # a border pixel is a segment of its own
    t, s = wanted[where], np.where(drawn > 0, drawn, alone)[where]
    pairs = pair_confusion_matrix(t, s)
    together, merged, split = (
        count + len(t) for count in (pairs[1, 1], pairs[1, 1] + pairs[0, 1], pairs[1, 1] + pairs[1, 0])
    )
    assert rand == pytest.approx(2 * together / (merged + split), rel=1e-12)
    # 2 I(S; T) / (H(S) + H(T)), as scikit-learn calls it.
    assert info == pytest.approx(normalized_mutual_info_score(t, s, average_method="arithmetic"), rel=1e-9)


def test_agreement_by_hand():
    wanted = np.array([[1, 1, 0, 2, 2]])
    assert em.agreement(wanted, wanted * 7) == (1, 1)
    # Merged: sum p^2 = 2 / 4, sum s^2 = 1, sum t^2 = 1 / 2; no mutual information.
    assert em.agreement(wanted, np.ones((1, 5), int)) == pytest.approx((0.5 / 0.75, 0))
    # Split into pixels: sum p^2 = sum s^2 = 1 / 4; I = log 2, H(s) = log 4, H(t) = log 2.
    assert em.agreement(wanted, np.zeros((1, 5), int)) == pytest.approx((0.25 / 0.375, 2 / 3))
    one = np.ones((2, 2), int)
    assert em.agreement(one, one) == (1, 1)
    assert em.agreement(np.array([[3]]), np.array([[0]])) == (1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_thinned_borders_keep_segments_apart(seed):
    segments = reference.components(cells(np.random.default_rng(seed), (23, 31), 0.25))
    thin = em.thin_borders(segments)
    np.testing.assert_array_equal(thin[segments > 0], segments[segments > 0])
    for first, second in ((thin[:-1], thin[1:]), (thin[:, :-1], thin[:, 1:])):
        assert not ((first != second) & (first > 0) & (second > 0)).any()
    for place in np.argwhere((segments == 0) & (thin > 0)):
        of_all = np.hypot(*(np.argwhere(segments > 0) - place).T).min()
        of_mine = np.hypot(*(np.argwhere(segments == thin[tuple(place)]) - place).T).min()
        assert of_mine == pytest.approx(of_all)


def test_a_wide_border_becomes_one_pixel():
    segments = np.zeros((6, 9), int)
    segments[:, :2], segments[:, 6:] = 1, 2
    thin = em.thin_borders(segments)
    assert ((thin == 0).sum(1) == 1).all()
    np.testing.assert_array_equal(thin[0] == 0, [False] * 3 + [True] + [False] * 5)
    nothing = np.zeros((3, 3), int)
    np.testing.assert_array_equal(em.thin_borders(nothing), nothing)
    np.testing.assert_array_equal(em.thin_borders(nothing + 1), nothing + 1)


def test_simple_points_are_those_that_leave_the_topology():
    table = em.simple_points()
    for index in range(256):
        around = [bool(index >> bit & 1) for bit in range(8)]
        patch = np.array([*around[:4], True, *around[4:]]).reshape(3, 3)
        assert table[index] == reference.is_simple(patch), index
    assert table.sum() == 116  # of the plane's 256 neighbourhoods


@pytest.mark.parametrize("seed", range(3))
def test_warping_equals_flips_of_one_pixel_at_a_time(seed):
    rng = np.random.default_rng(seed)
    wanted, drawn = cells(rng, (15, 18)), cells(rng, (15, 18), 0.1)
    labelled = rng.random((15, 18)) < 0.95
    warped = reference.warp(wanted, drawn, labelled)
    assert reference.topology(np.pad(warped, 1)) == reference.topology(np.pad(wanted, 1))
    left = ((warped != drawn) & labelled).sum() / labelled.sum()
    assert em.warping_error(wanted, drawn, labelled) == pytest.approx(left)
    assert 0 < left < ((wanted != drawn) & labelled).sum() / labelled.sum()


def test_warping_by_hand():
    everywhere = np.ones((5, 7), bool)
    two = everywhere.copy()
    two[:, 3] = False
    moved = np.roll(two, 1, 1)
    assert em.warping_error(two, two, everywhere) == 0
    assert em.warping_error(two, moved, everywhere) == 0  # the same cells elsewhere
    assert em.warping_error(two, everywhere, everywhere) == 5 / 35  # merged: the membrane cannot go
    assert em.warping_error(two, ~everywhere, everywhere) == 2 / 35  # lost: a pixel of each cell stays
    unlabelled = everywhere.copy()
    unlabelled[:, 3] = False
    assert em.warping_error(two, everywhere, unlabelled) == 0


def scored(cell, label):
    return em.em_score().conclude(em.em_scores(cell, label)[None])


def test_best_threshold_of_a_whole_split():
    rng = np.random.default_rng(0)
    label = np.stack([~cells(rng, (24, 24)) for _ in range(3)]).astype(np.uint8)
    label[0, :5] = 255
    cell = np.clip(0.7 * (label == 0) + 0.3 * rng.random(label.shape), 0, 1)
    found = em.em_score().conclude(np.stack([em.em_scores(p, t) for p, t in zip(cell, label, strict=True)]))
    expected = {"V_rand": [], "pixel": []}
    for threshold in np.arange(10) / 10:
        rands, pixels = [], []
        for p, t in zip(cell, label, strict=True):
            thin = em.thin_borders(reference.components(p > threshold))
            rands.append(reference.v_rand(reference.components(t == 0), thin))
            hit, drawn, wanted = (
                (mask & (t != 255)).sum() for mask in ((p > threshold) & (t == 0), p > threshold, t == 0)
            )
            pixels.append(2 * hit / (drawn + wanted))
        expected["V_rand"].append(np.mean(rands))
        expected["pixel"].append(np.mean(pixels))
    assert found["V_rand"] == pytest.approx(max(expected["V_rand"]))
    assert found["pixel_error"] == pytest.approx(1 - max(expected["pixel"]))
    assert np.argmax(expected["V_rand"]) > 0


def test_extremes():
    label = np.zeros((8, 8), np.uint8)
    label[4] = 1
    perfect = scored((label == 0).astype(np.float32), label)
    assert perfect == {"V_rand": 1, "V_info": 1, "rand_error": 0, "pixel_error": 0, "warping_error": 0}
    ignored = scored(np.ones((8, 8)), np.full((8, 8), 255, np.uint8))
    assert all(np.isnan(value) for value in ignored.values())
    no_cell = scored(np.zeros((8, 8)), np.ones((8, 8), np.uint8))
    assert np.isnan(no_cell["V_rand"]) and no_cell["warping_error"] == 0
    one = scored(np.ones((1, 1)), np.zeros((1, 1), np.uint8))
    assert one["V_rand"] == 1 and one["pixel_error"] == 0
    nothing_drawn = scored(np.zeros((8, 8)), label)
    assert 0 < nothing_drawn["V_rand"] < 0.1 and nothing_drawn["pixel_error"] == 1

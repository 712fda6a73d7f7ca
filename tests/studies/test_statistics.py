"""Intervals, tests and the bootstrap against scipy, naive loops and simulated coverage."""

import warnings

import numpy as np
import pytest
import scipy.stats

from segjax.evaluation import metrics
from segjax.studies import statistics
from segjax.studies.statistics import ImageCounts, bootstrap_difference, holm, summarize, verdict
from tests.references import statistics as naive

SCORES = np.array([71.2, 73.9, 70.4, 74.1])
OTHERS = np.array([70.1, 73.0, 70.6, 72.2])


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_mean_and_interval_are_those_of_scipy(count, level):
    values = SCORES[:count]
    found = summarize(values, level)
    expected = scipy.stats.t.interval(level, count - 1, loc=values.mean(), scale=scipy.stats.sem(values))
    np.testing.assert_allclose((found.low, found.high), expected, rtol=1e-12)
    assert found.count == count
    assert found.std == pytest.approx(scipy.stats.tstd(values), rel=1e-12)


def test_few_seeds_have_no_interval():
    assert summarize([70.0])[:2] == (1, 70.0)
    assert np.isnan(summarize([70.0])[2:]).all()
    assert summarize([])[0] == 0 and np.isnan(summarize([])[1:]).all()
    # A class that no seed's split has is no class of IoU 0.
    assert summarize([np.nan, 70.0, 72.0])[:2] == (2, 71.0)
    assert np.isnan(statistics.paired_difference([70.0], [71.0])[2:]).all()
    # Two seeds: the 97.5 % quantile of t with one degree of freedom is tan(pi 0.475) = 12.7062.
    found = summarize([70.0, 72.0])
    assert found.high - found.mean == pytest.approx(np.tan(0.475 * np.pi), rel=1e-9)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_paired_difference_is_that_of_scipy(count):
    ours, theirs = SCORES[:count], OTHERS[:count]
    expected = scipy.stats.ttest_rel(ours, theirs)
    found = statistics.paired_difference(ours, theirs)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
    np.testing.assert_allclose((found.low, found.high), expected.confidence_interval(0.95), rtol=1e-10)
    assert (found.p >= 0.05) == (found.low <= 0 <= found.high)
    back = statistics.paired_difference(theirs, ours)
    assert (back.mean, back.low, back.high) == (-found.mean, -found.high, -found.low)


def test_paired_difference_of_pairs_that_are_whole():
    found = statistics.paired_difference([1.0, np.nan, 3.0, 4.5], [0.5, 1.0, np.nan, 4.2])
    assert found.count == 2 and found.mean == pytest.approx(0.4)
    same = statistics.paired_difference(SCORES, SCORES)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    # Exactly representable differences without any spread: t is infinite.
    assert statistics.paired_difference([1.5, 2.5], [1.0, 2.0]).p == 0
    with pytest.raises(ValueError, match="as many on both sides"):
        statistics.paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="between 0 and 1"):
        summarize(SCORES, 95)


def test_the_interval_of_three_seeds_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(70, 2, (1500, 3))
    covered = np.mean([found.low <= 70 <= found.high for found in map(summarize, draws)])
    # The share of 1500 has a standard deviation of 0.6 %; a normal quantile in t's place would cover 81 %.
    assert 0.93 < covered < 0.97


def counts_of(seed, images=7, classes=4, size=60, quality=0.6):
    """Of random labels and predictions, where class 3 is in few images and image 0 has no labelled pixel."""
    rng = np.random.default_rng(seed)
    arrays = np.zeros((3, images, classes), np.int32)
    for image in range(1, images):
        label = np.random.default_rng(image).integers(0, 4 if image > images - 3 else 3, size)
        prediction = np.where(rng.random(size) < quality, label, rng.integers(0, 3, size))
        for c in range(classes):
            arrays[:, image, c] = ((label == c) & (prediction == c)).sum(), (label == c).sum(), (prediction == c).sum()
    return ImageCounts(np.array([f"image{k}" for k in range(images)]), *arrays)


def as_dict(run):
    return {str(name): (run.intersection[k], run.labelled[k], run.predicted[k]) for k, name in enumerate(run.ids)}


def shuffled(run, seed=0):
    order = np.random.default_rng(seed).permutation(len(run.ids))
    return ImageCounts(*(each[order] for each in run))


@pytest.mark.parametrize(("seeds", "other_seeds"), [([0], [10]), ([0, 1, 2], [10, 11])])
def test_bootstrap_is_the_naive_loop_over_the_same_resamples(seeds, other_seeds, monkeypatch):
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 8 * 7 * 11)  # 11 resamples at once
    ours = [counts_of(seed, quality=0.66) for seed in seeds]
    theirs = [counts_of(seed) for seed in other_seeds]
    drawn = np.random.default_rng(5).integers(0, 7, (150, 7))
    resamples = [[f"image{k}" for k in each] for each in drawn]
    low, high, p = naive.bootstrap_difference(list(map(as_dict, ours)), list(map(as_dict, theirs)), resamples)
    # The runs' own order of images has no part in it, the first one's apart, which numbers them.
    found = bootstrap_difference(
        [ours[0], *map(shuffled, ours[1:])], list(map(shuffled, theirs)), resamples=150, seed=5
    )
    # Sums are exact; what is left are a few roundings of quotients.
    np.testing.assert_allclose(found[1:4], (low, high, p), rtol=1e-12)
    whole = [naive.row_score(list(map(as_dict, runs)), as_dict(runs[0])) for runs in (ours, theirs)]
    assert found.value == pytest.approx(whole[0] - whole[1], rel=1e-12)
    assert 0 < found.p < 1 and found.count == 150


def test_groups_are_drawn_whole():
    """Each clip twice the same frame: the interval is as wide as that of the clips, not as of so many images."""
    ours, theirs = counts_of(1), counts_of(2)
    frames = [
        ImageCounts(np.array([f"{k}/{i}" for i in "ab" for k in run.ids]), *(np.tile(each, (2, 1)) for each in run[1:]))
        for run in (ours, theirs)
    ]
    groups = [[k, k + 7] for k in range(7)]
    whole = [statistics.sum_groups(run, groups) for run in frames]
    assert whole[0].ids.tolist() == [f"image{k}/a" for k in range(7)]
    np.testing.assert_array_equal(whole[0].intersection, 2 * ours.intersection)
    expected = bootstrap_difference([ours], [theirs], resamples=200)
    np.testing.assert_allclose(bootstrap_difference(whole[:1], whole[1:], resamples=200), expected, rtol=1e-12)
    alone = bootstrap_difference(frames[:1], frames[1:], resamples=200)
    assert alone.high - alone.low < 0.9 * (expected.high - expected.low)


def test_scores_are_those_of_a_confusion_matrix():
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 50, (5, 5))
    confusion[3], confusion[:, 3] = 0, 0  # absent
    confusion[2] = 0  # predicted only
    counts = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    expected = metrics.scores(confusion)
    assert statistics.mean_iou(*counts) == pytest.approx(expected["mIoU"], rel=1e-12)
    assert statistics.mean_iou(*counts) == pytest.approx(naive.miou(*counts), rel=1e-12)
    assert statistics.pixel_accuracy(*counts) == pytest.approx(expected["pixel_accuracy"], rel=1e-12)
    nothing = np.zeros(5, int)
    assert np.isnan(statistics.mean_iou(nothing, nothing, nothing))
    assert np.isnan(statistics.pixel_accuracy(nothing, nothing, nothing))


def test_identical_runs_do_not_differ():
    runs = [counts_of(seed) for seed in (0, 1, 2)]
    # In another order the three scores' mean has another last digit, which is no difference.
    for others in (runs, runs[::-1]):
        found = bootstrap_difference(runs, others, resamples=200)
        np.testing.assert_allclose(found[:3], 0, atol=1e-15)
        assert found.p == 1


def test_unlabelled_images_are_no_score_of_zero():
    nothing = ImageCounts(np.array(["a", "b"]), *np.zeros((3, 2, 4), int))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap_difference([nothing], [nothing], resamples=50)
    assert np.isnan(found[:4]).all() and found.count == 0
    assert verdict(found.p, (found.low, found.high)) == "not tested"
    # One of two images has labels: resamples without it, a quarter, are left out.
    half = ImageCounts(nothing.ids, *(np.array([[0, 0], [n, n]]) for n in (3, 4, 4)))
    nil = ImageCounts(nothing.ids, *(np.array([[0, 0], [n, n]]) for n in (0, 4, 4)))
    found = bootstrap_difference([half], [nil], resamples=2000)
    assert found.value == found.low == found.high == 3 / 5
    assert 0.7 < found.count / 2000 < 0.8


def test_one_image_says_nothing_of_others():
    one = [ImageCounts(np.array(["a"]), *np.array([[[n, n]] for n in counts])) for counts in ((4, 5, 5), (3, 5, 5))]
    found = bootstrap_difference(one[:1], one[1:], resamples=20)
    assert found.value == pytest.approx(4 / 6 - 3 / 7)
    assert np.isnan(found[1:4]).all() and verdict(found.p, (found.low, found.high)) == "not tested"


def test_runs_of_different_images_are_not_paired():
    run = counts_of(0)
    other = ImageCounts(np.array([*run.ids[:-1], "imageX"]), *run[1:])
    with pytest.raises(ValueError, match=r"lacks 1 of the first one's \(image6\) and has 1 others \(imageX\)"):
        bootstrap_difference([run], [other], resamples=10)
    fewer = ImageCounts(*(each[:-1] for each in run))
    with pytest.raises(ValueError, match="the same images"):
        bootstrap_difference([run], [fewer], resamples=10)
    twice = ImageCounts(np.array([run.ids[0], *run.ids[:-1]]), *run[1:])
    with pytest.raises(ValueError, match="one id each"):
        bootstrap_difference([run], [twice], resamples=10)
    with pytest.raises(ValueError, match="same classes"):
        bootstrap_difference([run], [ImageCounts(run.ids, *(each[:, :-1] for each in run[1:]))], resamples=10)
    with pytest.raises(ValueError, match="a run or more"):
        bootstrap_difference([run], [], resamples=10)
    with pytest.raises(ValueError, match="needs images"):
        bootstrap_difference(*[[ImageCounts(*(each[:0] for each in run))]] * 2, resamples=10)
    with pytest.raises(ValueError, match="1 resample"):
        bootstrap_difference([run], [run], resamples=0)


def test_the_bootstrap_errs_about_as_often_as_it_says():
    """Two networks of one quality on 50 images: the true difference is 0, and images vary."""
    rng = np.random.default_rng(0)
    tried = 600
    covered, rejected = 0, 0
    for trial in range(tried):
        labelled = rng.integers(50, 500, (50, 3))
        hard = rng.random((50, 1))
        runs = []
        for _ in range(2):
            right = rng.binomial(labelled, np.clip(hard + rng.normal(0, 0.1, (50, 1)), 0, 1))
            wrong = labelled - right
            runs.append(ImageCounts(np.arange(50), right, labelled, right + np.roll(wrong, 1, 1)))
        found = bootstrap_difference(runs[:1], runs[1:], resamples=300, seed=trial)
        covered += found.low <= 0 <= found.high
        rejected += found.p < 0.05
    # 95 % and 5 %, for 50 images 1 or 2 % worse; shares of 600 have a standard deviation of 1 %.
    assert 0.90 < covered / tried < 0.98
    assert 0.02 < rejected / tried < 0.10


def test_ten_thousand_resamples_find_a_difference_that_is_there():
    ours, theirs = ([counts_of(seed, 40, quality=quality)] for seed, quality in ((0, 0.7), (1, 0.5)))
    found = bootstrap_difference(ours, theirs)
    assert found.low > 0 and found.p == pytest.approx(2 / 10_001)
    assert found == bootstrap_difference(ours, theirs)
    assert found != bootstrap_difference(ours, theirs, seed=1)


@pytest.mark.parametrize(
    "p_values", [[0.01, 0.04, 0.03, 0.005], [0.6, 0.2, 0.2], [0.0, 1.0, 0.02], [0.3], np.linspace(0.001, 0.2, 9)[::-1]]
)
def test_holm_rejects_what_the_procedure_rejects(p_values):
    corrected = holm(p_values)
    for alpha in (0.001, 0.01, 0.05, 0.1, *(c + side for c in corrected for side in (-1e-9, 1e-9) if c < 1)):
        assert (corrected <= alpha).tolist() == naive.holm_rejects(list(p_values), alpha)


def test_holm_by_hand():
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, then 0.04 * 1, which must not be less than the one before.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02], rtol=1e-12)
    np.testing.assert_allclose(holm([0.02, np.nan, 0.03]), [0.04, np.nan, 0.04], rtol=1e-12)
    assert holm([0.7, 0.8]).tolist() == [1, 1]
    assert holm([]).shape == (0,) and np.isnan(holm([np.nan])).all()
    with pytest.raises(ValueError, match=r"in 0\.\.1"):
        holm([0.2, 1.2])


@pytest.mark.parametrize(
    ("p", "intervals", "expected"),
    [
        (0.04, [(0.1, 2.0)], "significant"),
        (0.04, [(-2.0, -0.1)], "significant"),
        (0.05, [(0.1, 2.0)], "not significant"),
        (0.04, [(-0.1, 2.0)], "not significant"),
        (0.04, [(0.0, 2.0)], "not significant"),
        (0.04, [(0.1, 2.0), (-0.1, 2.0)], "not significant"),
        (0.04, [(0.1, 2.0), (-2.0, -0.1)], "not significant"),
        (0.04, [(0.1, 2.0), (0.2, 1.0)], "significant"),
        (0.04, [], "not tested"),
        (np.nan, [(0.1, 2.0)], "not tested"),
        (0.04, [(np.nan, np.nan)], "not tested"),
    ],
)
def test_verdict(p, intervals, expected):
    assert verdict(p, *intervals) == expected


CURVES = [
    [{"step": 10, "loss": 3.0}, {"step": 10, "val/mIoU": 0.2}, {"step": 20, "loss": 2.0}, {"step": 30, "loss": 1.0}],
    [{"step": 10, "loss": 9.0}, {"step": 15, "loss": 8.0}, {"step": 10, "loss": 5.0}, {"step": 20, "loss": 4.0}],
    [{"step": 20, "loss": 6.0}, {"step": 10, "loss": 4.0}, {"step": 30, "loss": None}, {"step": 40, "loss": np.nan}],
]


def test_band_at_the_steps_that_all_seeds_have():
    found = statistics.band(CURVES, "loss")
    assert found.steps.tolist() == [10, 20] and found.count == 3
    assert (found.mean.tolist(), found.low.tolist(), found.high.tolist()) == ([4, 4], [3, 2], [5, 6])


def test_band_without_common_steps_is_empty():
    for curves in (CURVES, [], [[]]):
        found = statistics.band(curves, "val/mIoU")
        assert [each.shape for each in found[:4]] == [(0,)] * 4
    one = statistics.band(CURVES[:1], "loss")
    assert one.mean.tolist() == one.low.tolist() == one.high.tolist() == [3, 2, 1]

"""What may be said of scores that vary with the seed and with the images: intervals, paired tests, the bootstrap.

Two questions, each with its function. Would another training end like this one? `summarize` and `paired_difference`,
over seeds, with Student's t. Would other images give the same order? `bootstrap_difference`, over images, for trained
networks as they are. Neither answers the other, and with three seeds the first has 2 degrees of freedom: an interval is
4.3 standard errors to each side. So `verdict` calls a difference significant only where all that was computed says so.

Everything is in the unit of what is given, and NaN is what is not defined, never 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

CHUNK_BYTES = 2**24
"""Of resampled indices held at once."""

ROUNDING = 1e-12
"""A resampled difference that is not larger is 0: scores of the same counts in another order differ by 1e-16."""


class Summary(NamedTuple):
    """Of one row over its seeds.

    Attributes:
      count: values that are not NaN.
      mean: NaN without a value.
      std: sample standard deviation, of n - 1 degrees of freedom; NaN with fewer than two values.
      low, high: interval of Student's t for the mean; NaN with fewer than two values, which have no interval.
    """

    count: int
    mean: float
    std: float
    low: float
    high: float


class Difference(NamedTuple):
    """Of two rows, ours minus theirs, over the seeds that both have. Attributes: see `Summary`, and

    p: two-sided, of the paired t test; NaN with fewer than two pairs.
    """

    count: int
    mean: float
    std: float
    low: float
    high: float
    p: float


class ImageCounts(NamedTuple):
    """What an evaluation counted in each of N images, of C classes.

    Attributes:
      ids: [N], the images' names, each once.
      intersection, labelled, predicted: int [N, C], labelled pixels of an image that are of class c in both, in the
        label, and in the prediction.
    """

    ids: np.ndarray
    intersection: np.ndarray
    labelled: np.ndarray
    predicted: np.ndarray


class Resampled(NamedTuple):
    """A difference of two scores, and what resampling the images makes of it.

    Attributes:
      value: of the images as they are; NaN where it is not defined.
      low, high: percentile interval; NaN where no resample has a score, and of one image, which says nothing of others.
      p: two-sided, of no difference; NaN where the interval is.
      count: resamples in which the score is defined; the others are left out.
    """

    value: float
    low: float
    high: float
    p: float
    count: int


class Band(NamedTuple):
    """A curve over the steps, of several seeds.

    Attributes:
      steps: int [S], ascending, those that all seeds have.
      mean, low, high: float [S].
      count: seeds.
    """

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: int


Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""intersection, labelled, predicted [..., C], summed over images -> score [...]"""


def summarize(values: Sequence[float], level: float = 0.95) -> Summary:
    """Mean, standard deviation and interval of a score over seeds (Student, Biometrika 1908).

    mean +- t(1 - (1 - level) / 2, n - 1) std / sqrt(n). It takes the scores of seeds for draws from a normal
    distribution, which three of them cannot contradict.

    Args:
      values: one a seed; NaN, a score that is not defined, is left out.
    """
    known = _numbers(values)
    count = len(known)
    if not count:
        return Summary(0, *[np.nan] * 4)
    mean = float(known.mean())
    if count == 1:
        return Summary(1, mean, np.nan, np.nan, np.nan)
    std = float(known.std(ddof=1))
    half = float(stats.t.ppf((1 + _fraction(level)) / 2, count - 1)) * std / count**0.5
    return Summary(count, mean, std, mean - half, mean + half)


def paired_difference(ours: Sequence[float], theirs: Sequence[float], level: float = 0.95) -> Difference:
    """Ours minus theirs over the same seeds: mean, interval and p value of the paired t test.

    The interval has 0 in it just where p > 1 - level. Differences that are all 0 give p = 1.

    Args:
      ours, theirs: scores, the k-th of both of one seed. A pair in which one is NaN is left out.
    Raises:
      ValueError: they differ in length.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise ValueError(
            "paired scores must be as many on both sides, one a seed; received shapes"
            f" {ours.shape} and {theirs.shape}. Give the seeds that both have, in one order"
        )
    found = summarize(ours - theirs, level)
    if found.count < 2:
        return Difference(*found, np.nan)
    if found.std == 0:
        return Difference(*found, 1.0 if found.mean == 0 else 0.0)
    t = found.mean / (found.std / found.count**0.5)
    return Difference(*found, float(2 * stats.t.sf(abs(t), found.count - 1)))


def mean_iou(intersection: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """mIoU [...] of counts [..., C]: over the classes with a pixel in label or prediction; NaN where none has."""
    union = labelled + predicted - intersection
    there = union > 0
    classes = there.sum(-1)
    # A class that is not there adds 0 to the sum and 0 to the number of classes.
    total = (intersection / np.where(there, union, 1)).sum(-1)
    return np.where(classes > 0, total / np.maximum(classes, 1), np.nan)


def pixel_accuracy(intersection: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Share [...] of the labelled pixels that are right, of counts [..., C]; NaN without labelled pixels."""
    del predicted
    pixels = labelled.sum(-1)
    return np.where(pixels > 0, intersection.sum(-1) / np.maximum(pixels, 1), np.nan)


def sum_groups(counts: ImageCounts, groups: Sequence[Sequence[int]]) -> ImageCounts:
    """The counts of groups of images as if each were one image, so that whole groups are resampled.

    Frames of one clip depend on each other: resampled one by one, they would make an interval too narrow.

    Args:
      groups: the indices of the images of each; its id is that of its first image.
    """
    sums = [np.stack([array[list(group)].sum(0) for group in groups]) for array in counts[1:]]
    return ImageCounts(np.array([counts.ids[group[0]] for group in groups]), *sums)


def bootstrap_difference(
    ours: Sequence[ImageCounts],
    theirs: Sequence[ImageCounts],
    *,
    score: Score = mean_iou,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Resampled:
    """Ours minus theirs, paired over the images: the bootstrap of Efron and Tibshirani 1993.

    A resample draws N of the N images with replacement, the same ones for all runs; a run's score is that of its
    counts summed over them, so that a class absent from a resample is left out of its mean, and a row's score the mean
    over its runs. The interval runs between percentiles of the differences d. The p value is
    2 min(#(d <= 0) + 1, #(d >= 0) + 1) / (B + 1), at most 1, whose added ones keep it off 0 (Davison and Hinkley 1997).

    What varies here is the images alone: the networks stay as they were trained, so it says nothing of other seeds.
    Images that depend on each other, as frames of one clip do, make the interval too narrow: see `sum_groups`.

    Args:
      ours, theirs: of each seed of a row; the rows may have different numbers of seeds. The order of images is free.
      score: of summed counts.
      resamples: B.
      seed: of the resamples; equal seeds give equal resamples.
    Raises:
      ValueError: a row has no runs, or there are no images, or the runs are of different images or classes.
    """
    _fraction(level)
    if resamples < 1:
        raise ValueError(f"a bootstrap needs 1 resample or more; received {resamples}")
    rows = _aligned((ours, theirs))
    images = len(rows[0])

    def value(weights):
        """[b, N], how often each image is taken, to [b]: sums are whole numbers below 2^53, so exact in float64."""
        scores = []
        for counts in rows:
            sums = (weights @ counts.reshape(images, -1)).reshape(len(weights), *counts.shape[1:])
            scores.append(score(sums[:, :, 0], sums[:, :, 1], sums[:, :, 2]).mean(-1))
        return scores[0] - scores[1]

    whole = float(value(np.ones((1, images)))[0])
    if images == 1:
        return Resampled(whole, np.nan, np.nan, np.nan, 0)
    drawn = []
    for indices in resampled_indices(images, resamples, seed):
        places = indices + np.arange(len(indices))[:, None] * images
        weights = np.bincount(places.ravel(), minlength=indices.size)
        drawn.append(value(weights.reshape(indices.shape).astype(np.float64)))
    found = _numbers(np.concatenate(drawn))
    if not len(found):
        return Resampled(whole, np.nan, np.nan, np.nan, 0)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    tail = min((found <= ROUNDING).sum(), (found >= -ROUNDING).sum())
    p = min(1.0, 2 * (tail + 1) / (len(found) + 1))
    return Resampled(whole, float(low), float(high), float(p), len(found))


def resampled_indices(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """The images of each resample: int [b, images] of the next b ones, what comes after what not depending on b."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK_BYTES // (8 * images))
    for start in range(0, resamples, step):
        yield rng.integers(0, images, (min(step, resamples - start), images))


def _aligned(rows: Sequence[Sequence[ImageCounts]]) -> list[np.ndarray]:
    """Each row's counts as float64 [N, runs, 3, C], images in the order of the first run."""
    if not all(len(runs) for runs in rows):
        raise ValueError(f"each row needs a run or more to resample; received {[len(runs) for runs in rows]} runs")
    first = [str(name) for name in rows[0][0].ids]
    if not first:
        raise ValueError("a bootstrap needs images; the first run has none")
    shape = np.shape(rows[0][0].intersection)
    found = []
    for runs in rows:
        counts = []
        for run in runs:
            order = _order([str(name) for name in run.ids], first)
            arrays = [np.asarray(each) for each in (run.intersection, run.labelled, run.predicted)]
            if any(array.shape != shape or array.ndim != 2 or len(array) != len(first) for array in arrays):
                raise ValueError(
                    f"counts must be [{len(first)}, C] of the same classes in all runs; received"
                    f" {[array.shape for array in arrays]} beside {shape}"
                )
            counts.append(np.stack(arrays, 1)[order])
        found.append(np.stack(counts, 1).astype(np.float64))
    return found


def _order(ids: list[str], wanted: list[str]) -> list[int]:
    place = {name: index for index, name in enumerate(ids)}
    if len(place) < len(ids):
        raise ValueError(f"images must have one id each to be paired; {len(ids) - len(place)} occur again")
    missing, more = sorted(set(wanted) - set(ids)), sorted(set(ids) - set(wanted))
    if missing or more:
        raise ValueError(
            "runs can be paired only where they scored the same images; one run lacks"
            f" {len(missing)} of the first one's ({', '.join(missing[:3]) or 'none'}) and has {len(more)} others"
            f" ({', '.join(more[:3]) or 'none'}). Evaluate both on one split by one protocol"
        )
    return [place[name] for name in wanted]


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p values corrected for being a family, float64 of the same length (Holm, Scand. J. Statist. 1979).

    The k-th smallest of m, k from 1, becomes the largest of (m - j + 1) p_j over j <= k, at most 1: a rejection at
    alpha then errs anywhere in the family with probability alpha at most, whatever depends on what. NaN is a test
    that was not made: it stays NaN and m does not count it.

    Raises:
      ValueError: a value outside of 0..1.
    """
    p = np.asarray(p_values, np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p values must be in 0..1; received {p.tolist()}")
    order = np.flatnonzero(~np.isnan(p))[np.argsort(p[~np.isnan(p)], kind="stable")]
    corrected = np.full(p.shape, np.nan)
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return corrected


def verdict(p: float, *intervals: tuple[float, float], alpha: float = 0.05) -> str:
    """Whether a difference may be called one.

    Args:
      p: corrected, of the test that is reported.
      intervals: (low, high) of the difference, over seeds, over images or both.
    Returns:
      "not tested" where p or a bound is NaN, as with one seed, or there is no interval; "not significant" where
      p >= alpha, an interval has 0 in it, its bounds included, or two lie on different sides of 0; else "significant".
    """
    bounds = np.asarray(intervals, np.float64).reshape(-1, 2)
    if not len(bounds) or np.isnan(p) or np.isnan(bounds).any():
        return "not tested"
    beyond = (bounds > 0).all() or (bounds < 0).all()
    return "significant" if p < alpha and beyond else "not significant"


def band(curves: Sequence[Sequence[Mapping[str, Any]]], name: str) -> Band:
    """The curve of `name` over seeds: mean, least and greatest.

    Args:
      curves: of each seed the lines of its metrics.jsonl, mappings with "step". Lines without `name`, or with None or
        NaN, are passed over; of two of one step, as after a resumed run, the later counts.
    Returns:
      At the steps that every seed has: a run that was cut off ends the band. None where a seed has no such line.
    """
    points = []
    for lines in curves:
        known = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        points.append({int(step): float(value) for step, value in known if not np.isnan(value)})
    steps = sorted(set.intersection(*map(set, points))) if points else []
    values = np.array([[curve[step] for curve in points] for step in steps]).reshape(len(steps), len(points))
    mean, low, high = (f(1) if points else np.zeros(0) for f in (values.mean, values.min, values.max))
    return Band(np.array(steps, int), mean, low, high, len(points))


def _numbers(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values[~np.isnan(values)]


def _fraction(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must lie between 0 and 1; received {level}")
    return level

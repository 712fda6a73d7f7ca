"""What a report of a study says, as plain facts: numbers with their intervals, curves, pictures, warnings, commands.

`gather` makes them from what `read_study` found; report_text.py and report_html.py write them down. Scores are
fractions of 1 here and percent where they are written.
"""

import dataclasses
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from segjax.core.logger import duration
from segjax.data.clips import find_clips
from segjax.evaluation.protocol import Protocol
from segjax.studies import statistics
from segjax.studies.read import RunResult, StudyResults
from segjax.studies.study import Published, Row

BOOTSTRAPPED = {"mIoU": statistics.mean_iou, "pixel_accuracy": statistics.pixel_accuracy}
"""Scores that follow from the counts of each image, so that images can be resampled."""


@dataclasses.dataclass(frozen=True)
class ReportRun:
    """One training. `state`: "finished", "failed", "missing", or "not scored" (it finished without the score)."""

    seed: int
    state: str
    error: str
    score: float
    facts: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The difference of two rows, `first` minus `second`.

    Attributes:
      seeds: that both rows have.
      by_seeds, by_images: 95 % intervals (low, high), NaN where there is none.
      p: the larger of the two tests' p values, corrected by Holm over the study's comparisons; NaN without a test.
      verdict: "significant", "not significant" or "not tested", and " by images alone" or " by seeds alone" where only
        one of the two could be tested.
    """

    first: str
    second: str
    seeds: int
    difference: float
    by_seeds: tuple[float, float]
    by_images: tuple[float, float]
    p: float
    verdict: str


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One line of the table.

    Attributes:
      summary: of the score over the seeds that have it.
      classes: class name -> mean IoU and its standard deviation over the seeds.
      bands: "loss" or "score" -> curve.
      changes: what the row sets in the base config, a line each.
      command: that trains it again.
      pictures: image id -> the strip that the evaluation of the first seed that has it wrote.
    """

    name: str
    labels: tuple[str, ...]
    runs: tuple[ReportRun, ...]
    summary: statistics.Summary
    published: Published | None
    params: float | None
    seconds: float
    classes: Mapping[str, tuple[float, float]]
    bands: Mapping[str, statistics.Band]
    pictures: Mapping[str, Path]
    changes: tuple[str, ...]
    command: str


@dataclasses.dataclass(frozen=True)
class Report:
    """A study.

    Attributes:
      score: that is compared, a name of the evaluation's scores.
      axes: names of the labels of each row.
      palette: (class name, colour) of the predictions.
      protocol: how the first finished run was scored.
      facts: when and where it was run.
    """

    title: str
    paper: str
    score: str
    axes: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    comparisons: tuple[Comparison, ...]
    classes: tuple[str, ...]
    palette: tuple[tuple[str, tuple[int, int, int]], ...]
    protocol: Protocol | None
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]

    @property
    def base(self) -> str:
        return self.rows[0].name

    def to_base(self, row: ReportRow) -> Comparison | None:
        """The comparison of a row with the base, where the study made it."""
        return next((c for c in self.comparisons if (c.first, c.second) == (row.name, self.base)), None)


def gather(results: StudyResults) -> Report:
    """The facts of a study's report, also while runs of it are missing."""
    protocol = Protocol.from_dict(results.protocol) if results.protocol else None
    score = protocol.score if protocol else "mIoU"
    rows = tuple(_row(results, row, score) for row in results.rows)
    pairs = results.compare or [(row.name, rows[0].name) for row in rows[1:]]
    return Report(
        results.title,
        results.paper,
        score,
        results.axes,
        rows,
        _comparisons(results, pairs, score),
        tuple(dict.fromkeys(name for run in results.runs.values() for name in run.per_class["iou"])),
        _palette(results.dataset),
        protocol,
        _facts(results),
        tuple(_warnings(results, rows, score)),
    )


def _row(results: StudyResults, row: Row, score: str) -> ReportRow:
    runs = results.seeds_of(row.name)
    classes = {}
    for name in dict.fromkeys(name for run in runs for name in run.per_class["iou"]):
        values = [run.per_class["iou"].get(name) for run in runs]
        found = statistics.summarize([math.nan if value is None else value for value in values])
        classes[name] = found.mean, found.std
    pictures: dict[str, Path] = {}
    for run in runs:
        pictures = {**run.predictions, **pictures}
    bands = {"loss": _band(runs, "train/loss")}
    if runs:
        bands["score"] = _band(runs, f"{runs[0].evaluation['protocol']['split']}/{score}")
    seconds = [run.summary["seconds"] for run in runs if run.summary.get("seconds") is not None]
    params = [run.summary["params"] for run in runs if run.summary.get("params") is not None]
    return ReportRow(
        row.name,
        row.labels,
        tuple(_run(results, row.name, seed, score) for seed in results.seeds),
        statistics.summarize([_score(run, score) for run in runs]),
        results.published.get(row.name),
        params[0] if params else None,
        float(np.mean(seconds)) if seconds else math.nan,
        classes,
        {kind: band for kind, band in bands.items() if len(band.steps)},
        pictures,
        tuple(f"config.{path} = {value!r}" for path, value in row.changes.items()),
        _command(results, row.name),
    )


def _palette(dataset: Mapping[str, Any]) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    names, colours = dataset.get("class_names", ()), dataset.get("palette", ())
    return tuple((name, tuple(colour)) for name, colour in zip(names, colours, strict=False))


def _band(runs: Sequence[RunResult], name: str) -> statistics.Band:
    points = [run.curves.get(name, np.zeros((2, 0))) for run in runs]
    return statistics.band([[{"step": step, name: value} for step, value in curve.T] for curve in points], name)


def _run(results: StudyResults, row: str, seed: int, score: str) -> ReportRun:
    run = results.runs.get((row, seed))
    if run is None:
        why = next((each for each in results.unfinished if (each["row"], each["seed"]) == (row, seed)), {})
        return ReportRun(seed, why.get("state", "missing"), why.get("error", ""), math.nan)
    value, summary = _score(run, score), run.summary
    facts = {
        "steps": summary.get("step"),
        "time": duration(summary["seconds"]) if summary.get("seconds") is not None else None,
        "images/s": f"{summary['images_per_second']:.3g}" if summary.get("images_per_second") else None,
        "memory, GiB": f"{summary['peak_memory_bytes'] / 2**30:.2f}" if summary.get("peak_memory_bytes") else None,
        "devices": _devices(summary),
        "commit": _short(summary.get("git_commit") or ""),
    }
    state = "not scored" if math.isnan(value) else "finished"
    return ReportRun(seed, state, "", value, tuple((name, str(fact)) for name, fact in facts.items() if fact))


def _command(results: StudyResults, row: str) -> str:
    """What trains the row again, with all seeds; in a shell."""
    parts = ["python", "-m", "segjax.ablate", "--config", results.study.get("config") or "FILE", "--workdir", "DIR"]
    overrides = [part for text in results.study.get("overrides") or () for part in ("--set", text)]
    return shlex.join([*parts, "--rows", row, *overrides])


def _comparisons(results: StudyResults, pairs: Sequence[tuple[str, str]], score: str) -> tuple[Comparison, ...]:
    found, p_values = [], []
    for pair in pairs:
        first, second = map(results.seeds_of, pair)
        scores = [{run.seed: _score(run, score) for run in side} for side in (first, second)]
        shared = [seed for seed in scores[0] if seed in scores[1]]
        by_seeds = statistics.paired_difference(*[[side[seed] for seed in shared] for side in scores])
        if shared:  # both tests are of the same runs
            first, second = ([run for run in side if run.seed in shared] for side in (first, second))
        by_images = _bootstrap(first, second, score)
        # A difference is one where both tests say so, and the p value of that is the larger of theirs.
        tests = [test for test in (by_seeds, by_images) if test is not None and not math.isnan(test.p)]
        p_values.append(max((test.p for test in tests), default=math.nan))
        found.append((pair, by_seeds, by_images, tests))
    comparisons = []
    for (pair, by_seeds, by_images, tests), p in zip(found, statistics.holm(p_values), strict=True):
        verdict = statistics.verdict(p, *[(test.low, test.high) for test in tests])
        if len(tests) == 1 and verdict != "not tested":
            verdict += " by images alone" if tests[0] is by_images else " by seeds alone"
        # Rows without a common seed still have means, whose difference resampling gives.
        value = by_seeds.mean if by_seeds.count else by_images.value if by_images else math.nan
        images = (by_images.low, by_images.high) if by_images else (math.nan, math.nan)
        seeds = (by_seeds.low, by_seeds.high)
        comparisons.append(Comparison(*pair, by_seeds.count, value, seeds, images, float(p), verdict))
    return tuple(comparisons)


def _bootstrap(ours: Sequence[RunResult], theirs: Sequence[RunResult], score: str) -> statistics.Resampled | None:
    """None where the score does not follow from counts, or a run has none, or the runs' images are not the same.

    Of clips, whole ones are drawn.
    """
    counts = [[run.per_image for run in side if run.per_image] for side in (ours, theirs)]
    if score not in BOOTSTRAPPED or not all(counts) or [*map(len, counts)] != [len(ours), len(theirs)]:
        return None
    if len({frozenset(map(str, run.ids)) for side in counts for run in side}) > 1:
        return None
    if ours[0].evaluation["protocol"].get("clip"):
        counts = [[statistics.sum_groups(run, find_clips(run.ids)) for run in side] for side in counts]
    return statistics.bootstrap_difference(*counts, score=BOOTSTRAPPED[score])


def _warnings(results: StudyResults, rows: Sequence[ReportRow], score: str) -> Iterator[str]:
    runs = list(results.runs.values())
    protocols = [Protocol.from_dict(run.evaluation["protocol"]) for run in runs]
    others: dict[str, list[str]] = {}
    for run, protocol in zip(runs, protocols, strict=True):
        if different := protocols[0].differences(protocol):
            others.setdefault("; ".join(different), []).append(f"{run.row}/{run.seed}")
    for different, names in others.items():
        yield (
            f"protocols differ between rows, so that differences are not of the networks alone. {runs[0].row} |"
            f" {', '.join(names)}: {different}"
        )
    for row in rows:
        lacking = [f"seed {run.seed} {run.state}" for run in row.runs if run.state != "finished"]
        if lacking:
            yield f"{row.name} has {row.summary.count} of {len(row.runs)} seeds: {', '.join(lacking)}"
    if single := [row.name for row in rows if row.summary.count == 1]:
        yield f"1 seed, no interval: how far from it another training would end is not known of {', '.join(single)}"
    commits = _values(runs, "git_commit")
    if len(commits) > 1:
        yield f"runs are of different commits: {', '.join(map(_short, commits))}"
    if any(commit.endswith("-dirty") for commit in commits):
        yield "the code of some runs differed from its commit (-dirty)"
    if len({_devices(run.summary) for run in runs}) > 1:
        yield "runs were made on different devices, so that their times cannot be compared"
    if len({str(run.summary.get("versions")) for run in runs}) > 1:
        yield "runs were made with different versions of libraries"
    names = {row.published.name for row in rows if row.published} if runs else set()
    if other := sorted(names - {score}):
        yield f"the paper's numbers are of another score than ours ({score}): {', '.join(other)}"


def _facts(results: StudyResults) -> tuple[tuple[str, str], ...]:
    runs = list(results.runs.values())
    versions = [run.summary["versions"] for run in runs if run.summary.get("versions")]
    written = [(run.workdir / "summary.json").stat().st_mtime for run in runs]
    facts = {
        "trainings": f"{len(runs)} of {len(runs) + len(results.unfinished)} finished",
        "rows": results.mode.replace("_", " "),
        "last result": datetime.fromtimestamp(max(written), UTC).strftime("%Y-%m-%d %H:%M UTC") if written else "",
        "time of all": duration(sum(run.summary.get("seconds") or 0 for run in runs)),
        "devices of a training": ", ".join(dict.fromkeys(_devices(run.summary) for run in runs)),
        "commit": ", ".join(_values(runs, "git_commit")),
        "versions": "; ".join(dict.fromkeys(", ".join(f"{k} {v}" for k, v in each.items()) for each in versions)),
    }
    return tuple((name, value) for name, value in facts.items() if value)


def _values(runs: Sequence[RunResult], name: str) -> list[str]:
    return list(dict.fromkeys(str(run.summary[name]) for run in runs if run.summary.get(name)))


def _devices(summary: Mapping[str, Any]) -> str:
    if not summary.get("device_kind"):
        return ""
    processes = summary.get("processes", 1)
    return f"{summary.get('devices', 1)} × {summary['device_kind']}" + (f" in {processes} processes" * (processes > 1))


def _short(commit: str) -> str:
    return commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")


def _score(run: RunResult, score: str) -> float:
    return run.scores.get(score, math.nan)

"""A study's folder -> all that statistics and reports need of it. Reads files only: no data set, model or device."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from segjax.core import config as config_lib
from segjax.core.logger import read_json, read_metrics
from segjax.evaluation.protocol import Protocol
from segjax.studies.plan import run_status
from segjax.studies.statistics import ImageCounts
from segjax.studies.study import Published, Row

WHAT_IS_SCORED = ("dataset", "split", "images", "num_classes", "labels", "resize", "area", "reduction", "score")
"""Fields of a protocol in which the runs of a study must agree; in others, as scales or a CRF, its rows may differ."""


class RunResult(NamedTuple):
    """A finished run.

    Attributes:
      scores: every score that is one number, in 0..1 unless its name says otherwise; not finite ones are left out.
      per_class: {"iou": {class: value or None}, ...}.
      confusion: int64 [C, C], rows are labels.
      curves: of each name in metrics.jsonl, e.g. "train/loss" or "val/mIoU", float64 [2, points]: steps and values,
        NaN where a value was not finite.
      per_image: None where the run's version wrote none.
      summary: summary.json: seconds, params, flops_per_step, peak_memory_bytes, images_per_second, device_kind, ...
      evaluation: the whole evaluation-<protocol>.json.
      predictions: pictures by example id (with "/" as "_"), `image | label | prediction | error`.
    """

    row: str
    seed: int
    workdir: Path
    config: ConfigDict
    scores: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    confusion: np.ndarray
    classes: tuple[str, ...]
    curves: dict[str, np.ndarray]
    per_image: ImageCounts | None
    summary: dict[str, Any]
    evaluation: dict[str, Any]
    predictions: dict[str, Path]


class StudyResults(NamedTuple):
    """A study and what is finished of it.

    Attributes:
      study: study.json.
      rows: in the table's order, the base first.
      runs: (row name, seed) -> RunResult of those that are finished, in the order of rows and seeds.
      unfinished: {"row", "seed", "state": "failed" | "missing", "error"} of the others.
      protocol: of the first finished run, see WHAT_IS_SCORED; {} where none is finished.
      dataset: dataset.json of the first run: name, classes, palette, ...; {} where none is finished.
    """

    workdir: Path
    study: dict[str, Any]
    title: str
    paper: str
    mode: str
    axes: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    compare: tuple[tuple[str, str], ...]
    published: dict[str, Published]
    base: ConfigDict
    runs: dict[tuple[str, int], RunResult]
    unfinished: list[dict[str, Any]]
    protocol: dict[str, Any]
    dataset: dict[str, Any]

    def seeds_of(self, row: str) -> list[RunResult]:
        """The finished runs of a row, in the order of the seeds."""
        return [run for (name, _), run in self.runs.items() if name == row]


def read_study(workdir: str | Path) -> StudyResults:
    """The study in a folder of `segjax.ablate`.

    Raises:
      FileNotFoundError: there is no study.json.
      ValueError: two runs differ in WHAT_IS_SCORED, so that their scores cannot be compared.
    """
    workdir = Path(workdir)
    study = read_json(workdir / "study.json")
    if not study:
        raise FileNotFoundError(f"{workdir / 'study.json'} must be there: a study's folder is one of segjax.ablate")
    runs, unfinished = {}, []
    rows = tuple(Row(row["name"], tuple(row["labels"]), row["changes"]) for row in study["rows"])
    base = config_lib.from_json(json.dumps(study["base"]))
    for row in rows:
        for seed in study["seeds"]:
            found = run_status(row, seed, base, workdir)
            if found["state"] == "finished":
                runs[row.name, seed] = read_run(workdir / row.name / str(seed), row.name, seed)
            else:
                unfinished.append({"error": "", **found})
    first = next(iter(runs.values()), None)
    for run in runs.values():
        one, other = (Protocol.from_dict(each.evaluation["protocol"]) for each in (first, run))
        if different := [line for line in one.differences(other) if line.split(":")[0] in WHAT_IS_SCORED]:
            raise ValueError(
                f"all runs of a study must be scored on the same labels in the same way; {first.row}/{first.seed} and"
                f" {run.row}/{run.seed} differ: {'; '.join(different)}"
            )
    return StudyResults(
        workdir=workdir,
        study=study,
        title=study["title"],
        paper=study["paper"],
        mode=study["mode"],
        axes=tuple(axis["name"] for axis in study["axes"]),
        rows=rows,
        seeds=tuple(study["seeds"]),
        compare=tuple(tuple(pair) for pair in study["compare"]),
        published={name: Published(**number) for name, number in study["published"].items()},
        base=base,
        runs=runs,
        unfinished=unfinished,
        protocol=first.evaluation["protocol"] if first else {},
        dataset=read_json(first.workdir / "dataset.json") if first else {},
    )


def read_run(workdir: Path, row: str, seed: int) -> RunResult:
    """A finished training.

    Raises:
      FileNotFoundError: its evaluation is not there, or was overwritten by one of other weights.
    """
    summary = read_json(workdir / "summary.json")
    found = sorted(workdir.glob("evaluation-*.json"))
    path = next((path for path in found if _is_of_training(read_json(path), summary)), None)
    if path is None:
        raise FileNotFoundError(
            f"{workdir} must hold the evaluation-<protocol>.json with the scores of summary.json, which segjax.train"
            f" writes; received {', '.join(path.name for path in found) or 'none'} with others. python -m"
            f" segjax.evaluate --workdir={workdir} writes it again; give --output=DIR for scores of other checkpoints"
        )
    evaluation = read_json(path)
    counts = path.with_name(path.name.replace("evaluation-", "per_image-", 1)).with_suffix(".npz")
    per_image = None
    if counts.is_file():
        try:
            with np.load(counts) as arrays:
                per_image = ImageCounts(**{name: arrays[name] for name in ImageCounts._fields})
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{counts} must hold the counts that segjax.evaluate writes; it can't be read: {error}. python -m"
                f" segjax.evaluate --workdir={workdir} writes it again"
            ) from error
    return RunResult(
        row=row,
        seed=seed,
        workdir=workdir,
        config=config_lib.load_workdir_config(workdir),
        scores={name: value for name, value in evaluation["scores"].items() if value is not None},
        per_class=evaluation["per_class"],
        confusion=np.array(evaluation["confusion"]["pixels"], np.int64),
        classes=tuple(evaluation["confusion"]["classes"]),
        curves=read_curves(workdir / "metrics.jsonl"),
        per_image=per_image,
        summary=summary,
        evaluation=evaluation,
        predictions={path.stem: path for path in sorted((workdir / "predictions").glob("*.png"))},
    )


def _is_of_training(evaluation: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Whether a file of scores is that of the training itself; `segjax.evaluate` may have added others."""
    name = "evaluated_params_sha256"
    same_weights = name not in evaluation or evaluation[name] == summary.get(name)
    return same_weights and evaluation["scores"].get("mIoU") == summary.get("mIoU")


def read_curves(path: Path) -> dict[str, np.ndarray]:
    """metrics.jsonl -> {name: float64 [2, points], steps and values}."""
    points: dict[str, list[tuple[float, float]]] = {}
    for line in read_metrics(path):
        for name, value in line.items():
            if name != "step":
                points.setdefault(name, []).append((line["step"], np.nan if value is None else value))
    return {name: np.array(found, np.float64).T for name, found in points.items()}

"""The runs of a study: which there are, whether their configs are valid, how far each is, what it will cost."""

import fcntl
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from segjax.core import config as config_lib
from segjax.core.logger import duration, read_json
from segjax.core.validation import find_problems
from segjax.studies import study as study_lib
from segjax.studies.study import Row, Study


class Run(NamedTuple):
    """One training: a row with one seed, in an ordinary workdir of `segjax.train`."""

    row: Row
    seed: int
    config: ConfigDict
    workdir: Path

    @property
    def name(self) -> str:
        return f"{self.row.name}/{self.seed}"


class Cost(NamedTuple):
    """Of a compiled training step: floating-point operations, and bytes of memory that it holds on a device."""

    flops: float
    memory: int


class Estimate(NamedTuple):
    seconds: float  # of what is left
    source: str


def plan_runs(study: Study, workdir: Path, row_names: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """The runs with these rows and seeds, () being all; first every row with the first seed, so that a study that is
    stopped early has compared all rows.

    Raises:
      ValueError: an unknown row or seed; or, all of them at once, what is wrong with the runs' configs and which
        workdirs, also of rows and seeds that are not asked for, belong to a run with another config.
    """
    rows = study_lib.rows(study)
    for name in row_names:
        if name not in (known := [row.name for row in rows]):
            raise ValueError(f"--rows {name!r} is unknown; {config_lib.nearest(name, known)}")
    if unknown := [seed for seed in seeds if seed not in study.seeds]:
        raise ValueError(f"--seeds must be of the study's, {', '.join(map(str, study.seeds))}; received {unknown}")
    runs, problems = [], {}
    for seed in study.seeds:
        for row in rows:
            asked = (not row_names or row.name in row_names) and (not seeds or seed in seeds)
            try:
                config = study_lib.run_config(study, row, seed)
                found = find_problems(config) if asked else []
            except ValueError as error:
                found = str(error).splitlines() if asked else []
            else:
                run = Run(row, seed, config, Path(workdir) / row.name / str(seed))
                runs += [run] * asked
                found = found or _conflicts(run)
            for problem in found:
                problems.setdefault(problem, []).append(f"{row.name}/{seed}")
    if problems:
        lines = [f"  {problem}\n    in {', '.join(names)}" for problem, names in problems.items()]
        raise ValueError("nothing was run, since these configs cannot be:\n" + "\n".join(lines))
    return runs


def _conflicts(run: Run) -> list[str]:
    """How the run that lies in the workdir differs from what is now asked for; it is kept from being mixed up."""
    begun = newest_checkpoint(run.workdir) is not None or (run.workdir / "summary.json").is_file()
    if not begun or not (run.workdir / "config.json").is_file():
        return []
    different = config_lib.differences(config_lib.load_workdir_config(run.workdir), run.config)
    if not different or run.config.checkpoint.allow_config_change:
        return []
    return [
        "a run that has begun goes on only with its config; take another --workdir, or delete it. It differs by"
        f" {'; '.join(different)}"
    ]


def state(run: Run) -> str:
    """What the disk says of a run: "finished", "at work", "failed", "begun" (it has a checkpoint) or "new"."""
    if is_finished(run.workdir, run.config.training.steps):
        return "finished"
    if is_locked(run.workdir):
        return "at work"
    if (run.workdir / "failure.json").is_file():
        return "failed"
    return "new" if newest_checkpoint(run.workdir) is None else "begun"


def is_finished(workdir: Path, steps: int) -> bool:
    """Whether there is the summary of the last step, which a training writes when all else is written."""
    return read_json(workdir / "summary.json").get("step") == steps


def newest_checkpoint(workdir: Path) -> int | None:
    """The step of the newest checkpoint, or None."""
    return max((int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()), default=None)


def lock(workdir: Path) -> Any:
    """An open file that holds the workdir's lock until it is closed, or until a process that inherited it ends.

    Raises:
      BlockingIOError: another process has it.
    """
    file = (workdir / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BlockingIOError(f"a training is already at work in {workdir}") from None
    return file


def is_locked(workdir: Path) -> bool:
    if not (workdir / ".lock").is_file():
        return False
    try:
        lock(workdir).close()
    except BlockingIOError:
        return True
    return False


def run_status(row: Row, seed: int, base: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Of a run in a study's folder: row, seed, state (finished, failed, missing), and `error` where it failed."""
    folder = Path(workdir) / row.name / str(seed)
    found = {"row": row.name, "seed": seed}
    if is_finished(folder, row.changes.get("training.steps", base.training.steps)):
        return {**found, "state": "finished"}
    failure = read_json(folder / "failure.json")
    return {**found, "state": "failed", "error": failure["error"]} if failure else {**found, "state": "missing"}


def status(study: Study, workdir: Path) -> list[dict[str, Any]]:
    """For study-status.json: `run_status` of every run."""
    return [run_status(row, seed, study.base, workdir) for row in study_lib.rows(study) for seed in study.seeds]


def estimate(run: Run, costs: Mapping[str, Cost], summaries: Mapping[tuple[str, int], Mapping], rate: float):
    """How long what is left of a run will take.

    As long as the finished runs of its row; else at the speed, in FLOP/s, of the finished run whose step is nearest in
    FLOPs; else at the machine's own, which no network reaches, so that it is a lower bound.

    Args:
      costs: row name -> Cost of its training step.
      summaries: (row name, seed) -> summary.json of the finished runs.
      rate: FLOP/s of a matrix product.
    Returns:
      an Estimate, or None where nothing is known of the row.
    """
    steps = run.config.training.steps
    left = 1 - (newest_checkpoint(run.workdir) or 0) / steps
    own = {seed: found["seconds"] for (row, seed), found in summaries.items() if row == run.row.name}
    if own:
        seeds = ", ".join(map(str, sorted(own)))
        return Estimate(left * statistics.median(own.values()), f"as seed {seeds}")
    if run.row.name not in costs:
        return None
    flops = costs[run.row.name].flops
    timed = {name: s for name, s in summaries.items() if s.get("flops_per_step") and s.get("steps_per_second")}
    if not timed:
        return Estimate(left * steps * flops / rate, f"at least, at {rate / 1e9:.0f} GFLOP/s of a matrix product")
    nearest = min(timed, key=lambda name: abs(math.log(timed[name]["flops_per_step"] / flops)))
    speed = timed[nearest]["flops_per_step"] * timed[nearest]["steps_per_second"]
    return Estimate(left * steps * flops / speed, f"at {speed / 1e9:.0f} GFLOP/s of {nearest[0]}/{nearest[1]}")


def plan_table(
    runs: Sequence[Run], states: Sequence[str], costs: Mapping[str, Cost], estimates: Sequence[Estimate | None]
) -> str:
    """The plan as text, a line a run, and the sum of the time that is left, were one run after the other."""
    width = max(len("run"), *(len(run.name) for run in runs))
    lines = [f"{'run':<{width}}  state       time  GFLOP/step   memory  estimated from"]
    total = 0.0
    for run, is_in, time in zip(runs, states, estimates, strict=True):
        cost = costs.get(run.row.name)
        numbers = f"{cost.flops / 1e9:>10.3g}  {cost.memory / 2**20:>5.0f} MB" if cost else f"{'-':>10}  {'-':>8}"
        left, source = ("-", "") if time is None or is_in == "finished" else (duration(time.seconds), time.source)
        total += time.seconds if source else 0.0
        lines.append(f"{run.name:<{width}}  {is_in:<8}  {left:>7}  {numbers}  {source}".rstrip())
    lines.append(f"{len(runs)} runs, {states.count('finished')} finished; {duration(total)} left, one after the other")
    return "\n".join(lines)

"""Runs of a study as an array of jobs of a SLURM cluster, through submitit (github.com/facebookincubator/submitit)."""

import contextlib
import inspect
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segjax.core.config import nearest
from segjax.studies.plan import Run, is_finished
from segjax.studies.run import Slot, conclude, prepare, start

MOST_TIMEOUTS = 100
"""How often a training may go on in another job after a time limit."""

IGNORE_USR2 = ("sh", "-c", "trap '' USR2; exec \"$@\"", "sh")
"""SLURM's warning may reach every process of a job, and would end a training, which only knows SIGTERM."""


class Training:
    """What a job of the array calls, with submitit's way of going on after a time limit or a preemption."""

    def __init__(self, workdir: Path, steps: int):
        self.workdir, self.steps, self._process = Path(workdir).absolute(), steps, None

    def __call__(self) -> str:
        """Train to the end, from where an earlier job got to.

        Raises:
          RuntimeError: the training failed, with the last lines of its log.
        """
        if is_finished(self.workdir, self.steps):
            return f"{self.workdir} is finished"
        try:
            self._process = start(self.workdir, Slot("SLURM"), before=IGNORE_USR2)
        except BlockingIOError as error:  # submitted twice
            return f"left out: {error}"
        status = self._process.wait()
        if status == 0 and not is_finished(self.workdir, self.steps):
            time.sleep(120)  # SIGTERM made it save; submitit's signal follows, calls `checkpoint`, and ends this
        if error := conclude(self.workdir, status):
            raise RuntimeError(f"the training in {self.workdir} failed:\n{error}")
        return f"{self.workdir} is finished"

    def checkpoint(self) -> Any:
        """submitit calls this before the job is ended: the training saves, and the job is put into the queue again."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(ChildProcessError):  # Popen.wait holds a lock that this handler interrupted
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return _library().helpers.DelayedSubmission(Training(self.workdir, self.steps))


def parse_options(text: str) -> dict[str, Any]:
    """ "partition=gpu,time=2:00:00,gpus_per_node=1" -> sbatch's options, `time` in minutes.

    Raises:
      ValueError: no "=", an option that submitit does not have, or a time that sbatch does not read.
    """
    valid = inspect.signature(_library().slurm.slurm._make_sbatch_string).parameters
    valid = [name for name in valid if name not in ("command", "folder", "map_count")]
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in valid:
            raise ValueError(f"--slurm must be OPTION=VALUE,... of sbatch; received {part!r}; {nearest(name, valid)}")
        options[name] = minutes(value) if name == "time" else int(value) if value.isdigit() else value
    return options


def minutes(text: str) -> int:
    """A time as sbatch reads it (minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]), in
    minutes, rounded up."""
    days, hours, mins, seconds = 0, 0, 0, 0
    if found := re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?", text):
        days, hours, mins, seconds = (int(number or 0) for number in found.groups())
    elif found := re.fullmatch(r"(?:(\d+):)?(\d+):(\d+)", text):
        hours, mins, seconds = (int(number or 0) for number in found.groups())
    elif text.isdigit():
        mins = int(text)
    else:
        raise ValueError(f"time must be as sbatch reads it, e.g. 90, 1:30:00 or 1-12; received {text!r}")
    return ((days * 24 + hours) * 60 + mins) + (seconds > 0) * -(-seconds // 60)


def script(runs: Sequence[Run], folder: Path, options: dict[str, Any]) -> str:
    """The script that `submit` would give to sbatch, and what each of its jobs runs; nothing is submitted."""
    submitit = _library()
    folder = Path(folder).absolute()
    text = submitit.slurm.slurm._make_sbatch_string(  # it has no public way to show it
        command=f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}",
        folder=folder,
        **_named(options),
        **({"map_count": len(runs)} if len(runs) > 1 else {}),
    )
    jobs = [f"# job {number}: python -m segjax.train --workdir={run.workdir}" for number, run in enumerate(runs)]
    return "\n".join([text.rstrip(), *jobs])


def submit(runs: Sequence[Run], folder: Path, options: dict[str, Any]) -> list[str]:
    """Write the runs' configs and submit them as one array. Returns the ids of the jobs.

    Raises:
      ValueError: there is no SLURM here, or sbatch refuses.
    """
    submitit = _library()
    try:
        executor = submitit.SlurmExecutor(folder=Path(folder).absolute(), max_num_timeout=MOST_TIMEOUTS)
    except RuntimeError as error:
        raise ValueError(f"--slurm needs srun and sbatch here ({error}); with --dry_run it shows the script") from error
    executor.update_parameters(**_named(options))
    for run in runs:
        prepare(run.workdir, run.config)
    try:
        jobs = executor.submit_array([Training(run.workdir, run.config.training.steps) for run in runs])
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise ValueError(f"sbatch refused: {error}") from error
    return [job.job_id for job in jobs]


def _named(options: dict[str, Any]) -> dict[str, Any]:
    return {"job_name": "segjax", **options}


def _library() -> Any:
    try:
        import submitit
    except ImportError:
        raise ValueError(
            "--slurm needs submitit, which is not installed: pip install 'submitit==1.5.4' (the extra `slurm` of"
            " pyproject.toml)"
        ) from None
    return submitit

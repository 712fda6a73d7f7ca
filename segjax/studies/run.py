"""Runs of a study on this machine: trainings as processes of their own, side by side, each on its own devices.

A process a training, and not several seeds in one program: experiments/results/seeds_in_one_program.csv has what was
measured. It also lets a run fail, be killed and go on alone, and be repeated by `segjax.train`.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from segjax.core import config as config_lib
from segjax.core.logger import duration, read_json, write_atomically, write_json
from segjax.studies.plan import Run, is_finished, lock, newest_checkpoint, state

LAST_LINES = 10
"""Of a failed run's log, which are reported."""


class Slot(NamedTuple):
    """Where one training at a time runs: its devices as environment variables, its cores of the CPU, () being all."""

    name: str
    environment: Mapping[str, str] = {}
    cores: tuple[int, ...] = ()


def find_slots(jobs: int = 0, devices: int = 1, pin: bool = False) -> list[Slot]:
    """The places for trainings on this machine: on GPUs one for each (or for each `devices` of them), on a CPU one.

    Args:
      jobs: how many trainings at once, 0 being those places.
      pin: on a CPU, give each of the jobs its share of the cores. XLA starts as many threads as a process has cores, so
        that jobs on all cores of a large machine are in each other's way. But a sum over other threads is rounded
        otherwise: a run then depends, in its last digits, on the number of cores, where without it equals the run alone
        bit for bit (experiments/results/seeds_in_one_program.csv). So it is off where nobody asks for it.
      devices: of one training.
    Raises:
      ValueError: more jobs than GPUs or cores, or more devices for a training than there are.
    """
    backend, count = _backend()
    if backend == "gpu":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        numbers = visible.split(",") if visible else [str(number) for number in range(count)]
        groups = [numbers[first : first + devices] for first in range(0, len(numbers) - devices + 1, devices)]
        _check_jobs(jobs, len(groups), f"{count} GPUs hold {len(groups)} trainings of {devices} each")
        slots = [Slot(f"GPU {','.join(group)}", {"CUDA_VISIBLE_DEVICES": ",".join(group)}) for group in groups]
        return slots[: jobs or None]
    if backend != "cpu":  # one process holds all chips of a TPU
        _check_jobs(jobs, 1, f"one process takes all devices of a {backend}")
        return [Slot(backend)]
    if devices > count:
        raise ValueError(f"config.parallel asks for {devices} devices; XLA sees {count} here (XLA_FLAGS sets it)")
    if jobs <= 1 or not pin:
        return [Slot(f"place {number}" if jobs > 1 else "the CPU") for number in range(max(1, jobs))]
    cores = sorted(os.sched_getaffinity(0))
    _check_jobs(jobs, len(cores), f"there are {len(cores)} cores")
    shares = [tuple(cores[len(cores) * k // jobs : len(cores) * (k + 1) // jobs]) for k in range(jobs)]
    return [Slot(f"cores {','.join(map(str, share))}", {}, share) for share in shares]


def _check_jobs(jobs: int, most: int, why: str) -> None:
    if jobs > most or most < 1:
        raise ValueError(f"--jobs must be at most {most}, since {why}; received {jobs}")


def _backend() -> tuple[str, int]:
    """JAX's backend and its number of devices, asked in another process, since who asks takes a GPU's memory."""
    code = "import jax; print(jax.default_backend(), jax.local_device_count())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if answer.returncode:
        raise OSError(f"JAX finds no device: {answer.stderr.strip().splitlines()[-1]}")
    backend, count = answer.stdout.split()[-2:]
    return backend, int(count)


def prepare(workdir: Path, config: ConfigDict) -> None:
    """Write the config from which `segjax.train --workdir` starts, or goes on where `plan_runs` allows what differs."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(workdir / "config.json", config_lib.to_json(config))


def command(workdir: Path) -> list[str]:
    """Of a training that takes its config from its workdir."""
    return [sys.executable, "-m", "segjax.train", f"--workdir={workdir}"]


def start(workdir: Path, slot: Slot, config: ConfigDict | None = None, before: Sequence[str] = ()) -> subprocess.Popen:
    """Start or go on with the training in a workdir; its output goes to the end of log.txt.

    It holds the workdir's lock as long as it lives, also where this process ends before. It is in a session of its own,
    so that Ctrl-C in a terminal does not reach it before it was asked to save.

    Args:
      config: with which it shall be prepared; None where it is.
      before: of the command line, what stands before python.
    Raises:
      BlockingIOError: another training is at work there.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    held = lock(workdir)
    every = os.sched_getaffinity(0) if slot.cores else None
    try:
        if config is not None:
            prepare(workdir, config)
        (workdir / "failure.json").unlink(missing_ok=True)
        if slot.cores:  # a process has the cores of the thread that starts it, from its first instruction
            os.sched_setaffinity(0, slot.cores)
        with (workdir / "log.txt").open("a") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} on {slot.name}\n")
            log.flush()
            return subprocess.Popen(
                [*before, *command(workdir)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot.environment},
                start_new_session=True,
                pass_fds=[held.fileno()],
            )
    finally:
        if every:
            os.sched_setaffinity(0, every)
        held.close()


def conclude(workdir: Path, status: int) -> str | None:
    """After a training has ended: None where it finished, else the last lines of its log, kept in failure.json."""
    if is_finished(workdir, config_lib.load_workdir_config(workdir).training.steps):
        return None
    text = (workdir / "log.txt").read_text(errors="replace").rpartition("--- ")[2]
    lines = [line for line in text.splitlines()[1:] if line.strip()][-LAST_LINES:]
    ended = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    error = "\n".join([*lines, f"({ended}; {workdir / 'log.txt'})"])
    write_json(workdir / "failure.json", {"status": status, "error": error})
    return error


class Outcome(NamedTuple):
    """Of all runs.

    Attributes:
      failed: name of a run -> the last lines of its log.
      signal: the number of that which ended it all, or 0.
      left_out: names of those at which another process is at work.
    """

    failed: dict[str, str]
    signal: int = 0
    left_out: tuple[str, ...] = ()


def run_all(
    runs: Sequence[Run],
    slots: Sequence[Slot],
    say: Callable[[str], None] = print,
    after_each: Callable[[], Any] = lambda: None,
    interval: float = 0.2,
) -> Outcome:
    """Run what is not finished, as many at once as there are slots, each on a slot that is free.

    A run that fails does not stop the others, and one that another process has begun meanwhile is left to it. At SIGINT
    or SIGTERM the trainings get SIGTERM, save and end; no other is started. A second signal kills them.

    Args:
      say: gets a line an event.
      after_each: is called when a run has ended.
    """
    waiting, free, active, failed, left_out = [], list(slots), {}, {}, []
    for run in runs:
        if (is_in := state(run)) == "at work":
            left_out.append(run.name)
            say(f"left out  {run.name}: a training is at work in {run.workdir}")
        elif is_in != "finished":
            waiting.append(run)
    count, ended = len(waiting), 0
    say(f"{count} of {len(runs)} runs to do, {min(count, len(slots))} at once")
    with _Signals() as signals:
        while active or (waiting and not signals.came):
            while waiting and free and not signals.came:
                run = waiting.pop(0)
                if state(run) == "finished":  # by another process, since this one looked
                    continue
                try:
                    process = start(run.workdir, free[0], run.config)
                except BlockingIOError as error:
                    left_out.append(run.name)
                    say(f"left out  {run.name}: {error}")
                    continue
                slot, step = free.pop(0), newest_checkpoint(run.workdir)
                active[run.name] = run, slot, process, time.monotonic()
                say(f"started   {run.name} on {slot.name}" + (f", from step {step}" if step else ""))
            signals.pass_on([process for _, _, process, _ in active.values()], say)
            for name, (run, slot, process, began) in list(active.items()):
                if process.poll() is None:
                    continue
                del active[name]
                free.append(slot)
                if signals.came and process.returncode in (0, -signal.SIGTERM, -signal.SIGKILL):
                    step = newest_checkpoint(run.workdir)
                    if not is_finished(run.workdir, run.config.training.steps):
                        say(f"stopped   {name}" + (f", saved at step {step}" if step is not None else ""))
                        continue
                ended += 1
                took = duration(time.monotonic() - began)
                if error := conclude(run.workdir, process.returncode):
                    failed[name] = error
                    say(f"failed    {name} after {took}: {reason(error)} ({ended}/{count})")
                else:
                    score = read_json(run.workdir / "summary.json").get("mIoU")
                    shown = "-" if score is None else f"{100 * score:.2f} %"
                    say(f"finished  {name}: mIoU {shown} in {took} ({ended}/{count})")
                after_each()
            time.sleep(interval if active else 0)
    return Outcome(failed, signals.came, tuple(left_out))


def reason(error: str) -> str:
    """The line of a failure that says most: the error's own, else the last one."""
    lines = error.splitlines()[:-1] or [error]
    return next((line for line in lines if line.startswith("error:")), lines[-1]).strip()


class _Signals:
    """Context that counts SIGINT and SIGTERM instead of ending at them, and passes them on to processes."""

    def __enter__(self):
        self.came, self._times, self._passed, self._previous = 0, 0, 0, {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        self.came, self._times = number, self._times + 1

    def pass_on(self, processes: Sequence[subprocess.Popen], say: Callable[[str], None]) -> None:
        if self._times == self._passed:
            return
        first, self._passed = self._passed == 0, self._times
        if processes:
            say("stopping: the runs save their state (again: kill them)" if first else "killing the runs")
        for process in processes:
            process.terminate() if first else process.kill()

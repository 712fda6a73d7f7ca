"""Runs as an array of jobs: the script, what sbatch gets, and a job that is ended before its time."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from segjax.studies import plan, slurm
from tests.studies.conftest import runs_of
from tests.studies.test_plan import tiny

pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
OPTIONS = "partition=gpu,time=1:30:00,gpus_per_node=1,mem=16G"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("10:30", 11), ("2:00:00", 120), ("0:00:01", 1), ("1-12", 2160), ("1-0:30", 1470), ("2-1:2:3", 2943)],
)
def test_times_are_read_as_sbatch_reads_them(text, expected):
    assert slurm.minutes(text) == expected


def test_options_are_checked():
    assert slurm.parse_options(OPTIONS) == {"partition": "gpu", "time": 90, "gpus_per_node": 1, "mem": "16G"}
    for text, message in (("partitoin=x", "did you mean 'partition'"), ("gpu", "OPTION=VALUE"), ("time=soon", "1-12")):
        with pytest.raises(ValueError, match=message):
            slurm.parse_options(text)


def test_without_submitit_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match="pip install 'submitit=="):
        slurm.parse_options(OPTIONS)


def test_a_dry_run_shows_the_script_and_leaves_nothing(tmp_path):
    runs = plan.plan_runs(tiny(), tmp_path)
    text = slurm.script(runs, tmp_path / "slurm", slurm.parse_options(OPTIONS))
    for line in ("--partition=gpu", "--time=90", "--gpus-per-node=1", "--mem=16G", "--array=0-3%4"):
        assert f"#SBATCH {line}\n" in text
    assert f"# job 3: python -m segjax.train --workdir={tmp_path}/4/1" in text
    assert not list(tmp_path.iterdir())
    assert "--array" not in slurm.script(runs[:1], tmp_path, {})


def test_what_sbatch_gets_is_what_the_dry_run_shows(tmp_path, monkeypatch):
    """With an sbatch that keeps its script and gives an id."""
    runs = plan.plan_runs(tiny(), tmp_path / "study")
    with pytest.raises(ValueError, match="srun"):
        monkeypatch.setenv("PATH", "/nowhere")
        slurm.submit(runs, tmp_path / "slurm", {})
    for name, text in (("srun", ""), ("sbatch", f"cp $1 {tmp_path}/given; echo Submitted batch job 12")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    options = slurm.parse_options(OPTIONS)
    assert slurm.submit(runs, tmp_path / "slurm", options) == ["12_0", "12_1", "12_2", "12_3"]
    shown = slurm.script(runs, tmp_path / "slurm", options)
    assert (tmp_path / "given").read_text().rstrip() == shown.partition("\n# job 0")[0]
    assert json.loads((runs[3].workdir / "config.json").read_text())["model"]["width"] == 4
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    with pytest.raises(ValueError, match="sbatch refused"):
        slurm.submit(runs, tmp_path / "slurm", options)


@pytest.mark.usefixtures("stand_in")
def test_a_job_trains_and_fails_like_a_local_run(tmp_path):
    good, bad = runs_of(tmp_path, a=0, bad=1)
    for run in (good, bad):
        slurm.prepare(run.workdir, run.config)
    assert "is finished" in slurm.Training(good.workdir, 3)()
    assert "is finished" in slurm.Training(good.workdir, 3)(), "and a second job of it has nothing to do"
    with pytest.raises(RuntimeError, match="it cannot be"):
        slurm.Training(bad.workdir, 3)()
    assert plan.state(bad) == "failed"


@pytest.mark.usefixtures("stand_in")
def test_before_its_time_limit_a_job_saves_and_asks_for_another(tmp_path):
    """As submitit does it: in a handler of SIGUSR2, which also comes to the training and must not end it."""
    (run,) = runs_of(tmp_path, a=2)
    slurm.prepare(run.workdir, run.config)
    training = slurm.Training(run.workdir, 3)

    class Requeued(Exception):
        pass

    def handler(*_):
        raise Requeued(training.checkpoint())

    def warn():
        while "cores" not in (run.workdir / "log.txt").read_text():
            time.sleep(0.01)
        os.kill(training._process.pid, signal.SIGUSR2)
        time.sleep(0.1)
        assert training._process.returncode is None
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, handler)
    (run.workdir / "log.txt").touch()
    thread = threading.Thread(target=warn)
    thread.start()
    try:
        with pytest.raises(Requeued) as asked:
            training()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR2, before)
    again = asked.value.args[0]
    assert (again.function.workdir, again.function.steps) == (run.workdir, 3)
    assert plan.state(run) == "begun"

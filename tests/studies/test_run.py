"""Runs of a study: side by side, failing, stopped and going on; with a stand-in for the training, and with some."""

import json
import os
import re
import shutil
import signal
import threading
import time

import pytest

from segjax.studies import plan
from segjax.studies import run as run_lib
from segjax.studies.run import Slot, find_slots, run_all
from tests.process import run as run_main
from tests.studies.conftest import runs_of
from tests.studies.test_plan import tiny, written


def test_a_run_that_fails_stops_no_other_and_is_tried_again(stand_in, tmp_path):
    lines, calls = [], []
    runs = runs_of(tmp_path, a=0, bad=1, c=0)
    outcome = run_all(runs, [Slot("here")], lines.append, lambda: calls.append(1), interval=0.01)
    assert list(outcome.failed) == ["bad/0"] and outcome.signal == 0 and len(calls) == 3
    assert outcome.failed["bad/0"].splitlines()[1:] == [
        "error: it cannot be",
        f"(ended with status 3; {tmp_path}/study/bad/0/log.txt)",
    ]
    assert lines[:2] == ["3 of 3 runs to do, 1 at once", "started   a/0 on here"]
    assert lines[2].startswith("finished  a/0: mIoU 50.00 % in 0:00:0") and lines[2].endswith("(1/3)")
    assert any(line.startswith("failed    bad/0") and "error: it cannot be" in line for line in lines)
    assert [plan.state(run) for run in runs] == ["finished", "failed", "finished"]
    lines.clear()
    again = run_all([*runs[:1], runs[1]._replace(config=runs[0].config)], [Slot("here")], lines.append, interval=0.01)
    assert lines[0] == "1 of 2 runs to do, 1 at once" and not again.failed
    assert plan.state(runs[1]) == "finished" and not (runs[1].workdir / "failure.json").exists()
    assert (runs[1].workdir / "log.txt").read_text().count("--- ") == 2


def test_a_run_has_its_slots_environment_and_cores(stand_in, tmp_path):
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    (run,) = runs_of(tmp_path, a=0)
    run_all([run], [Slot("one", {"DEVICE": "7"}, (core,))], lambda line: None, interval=0.01)
    assert f"cores [{core}] 7" in (run.workdir / "log.txt").read_text()
    assert os.sched_getaffinity(0) == before


def test_a_signal_stops_the_runs_which_save_and_go_on_later(stand_in, tmp_path):
    runs = runs_of(tmp_path, a=2, b=2, c=0)
    lines = []

    def interrupt():
        while not all("cores" in (run.workdir / "log.txt").read_text() for run in runs[:2]):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    def say(line):
        lines.append(line)
        if line.startswith("started   b"):
            threading.Thread(target=interrupt).start()

    handler = signal.getsignal(signal.SIGINT)
    outcome = run_all(runs, [Slot("x"), Slot("y")], say, interval=0.01)
    assert outcome.signal == signal.SIGINT and not outcome.failed
    assert {"stopped   a/0, saved at step 2", "stopped   b/0, saved at step 2"} <= set(lines)
    assert not any("c/0" in line for line in lines)
    assert [plan.state(run) for run in runs] == ["begun", "begun", "new"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_run_at_work_elsewhere_is_left_out_until_its_process_ends(stand_in, tmp_path):
    """Also when what started it is gone: the lock belongs to the training."""
    (run,) = runs_of(tmp_path, a=2)
    run_lib.prepare(run.workdir, run.config)
    process = run_lib.start(run.workdir, Slot("elsewhere"))
    while "cores" not in (run.workdir / "log.txt").read_text():
        time.sleep(0.01)
    lines = []
    run_all([run], [Slot("here")], lines.append)
    assert lines[0].startswith("left out  a/0") and lines[1].startswith("0 of 1 runs to do")
    with pytest.raises(BlockingIOError):
        run_lib.start(run.workdir, Slot("here"))
    process.kill()
    process.wait()
    assert plan.state(run) == "new"


def test_a_run_that_has_begun_keeps_its_config(tmp_path):
    (run,) = plan.plan_runs(tiny(seeds=(0,)), tmp_path, ["base"])
    written(run, checkpoint=1)
    before = (run.workdir / "config.json").read_bytes()
    other = run.config.copy_and_resolve_references()
    other.training.log_every = 1
    run_lib.prepare(run.workdir, other)
    assert (run.workdir / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("backend", "visible", "jobs", "devices", "expected"),
    [
        (("gpu", 4), "", 0, 1, ["0", "1", "2", "3"]),
        (("gpu", 4), "", 3, 1, ["0", "1", "2"]),
        (("gpu", 3), "5,6,7", 0, 2, ["5,6"]),
        (("gpu", 4), "", 0, 2, ["0,1", "2,3"]),
    ],
)
def test_each_gpu_has_a_slot(monkeypatch, backend, visible, jobs, devices, expected):
    monkeypatch.setattr(run_lib, "_backend", lambda: backend)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    slots = find_slots(jobs, devices)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == expected
    with pytest.raises(ValueError, match="--jobs must be at most"):
        find_slots(5, devices)


def test_jobs_on_a_cpu_share_its_cores_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(run_lib, "_backend", lambda: ("cpu", 1))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 4, 5, 7})
    assert [slot.cores for slot in find_slots()] == [()]
    assert [slot.cores for slot in find_slots(2)] == [(), ()]
    assert [slot.cores for slot in find_slots(2, pin=True)] == [(1, 2), (4, 5, 7)]
    with pytest.raises(ValueError, match="at most 5"):
        find_slots(6, pin=True)
    with pytest.raises(ValueError, match="2 devices; XLA sees 1"):
        find_slots(1, devices=2)
    monkeypatch.setattr(run_lib, "_backend", lambda: ("tpu", 4))
    assert len(find_slots()) == 1


def test_the_backend_is_asked_in_another_process(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    assert run_lib._backend() == ("cpu", 3)


def test_trainings_side_by_side_and_one_that_fails(finished):
    """The runs of the fixture, as `segjax.ablate` starts them."""
    workdir, outcome, lines = finished
    assert list(outcome.failed) == ["unknown/0"]
    assert "error: model must be one of" in outcome.failed["unknown/0"]
    assert sum(line.startswith("finished") for line in lines) == 4
    entries = json.loads((workdir / "study-status.json").read_text())["runs"]
    states = {(entry["row"], entry["seed"]): entry["state"] for entry in entries}
    assert states == {
        **{(row, seed): "finished" for row in ("base", "4") for seed in (0, 1)},
        ("unknown", 0): "failed",
        ("unknown", 1): "missing",
    }


@pytest.mark.slow
def test_the_command_goes_on_and_its_status_tells(finished, prepared_dir, tmp_path):
    """A study's file, flags, a deleted summary and a run of each state, through the main."""
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    file = tmp_path / "study.py"
    file.write_text(
        "from tests.studies import conftest\n"
        f"def get_study(variant=''):\n    return conftest.small_study({str(prepared_dir)!r})\n"
    )
    before = json.loads((workdir / "base" / "0" / "summary.json").read_text())
    (workdir / "base" / "0" / "summary.json").unlink()
    flags = [f"--config={file}:x", f"--workdir={workdir}"]
    plan_text = run_main("ablate", *flags, "--plan")
    assert re.search(r"base/0 +begun .* as seed 1\n", plan_text) and re.search(r"4/1 +finished", plan_text)
    output = run_main("ablate", *flags, "--rows=base,unknown", "--seeds=0", status=1)
    assert "2 of 2 runs to do" in output and "finished  base/0" in output and "unknown/0 failed" in output
    after = json.loads((workdir / "base" / "0" / "summary.json").read_text())
    assert (after["params_sha256"], after["mIoU"]) == (before["params_sha256"], before["mIoU"])
    assert "all 4 runs are finished" in run_main("ablate", *flags, "--rows=base,4")
    output = run_main("ablate", *flags, "--set=optimizer.learning_rate=0.5", status=1)
    assert "optimizer.learning_rate: 0.004 -> 0.5" in output and "nothing was run" in output
    output = run_main("ablate", *flags, "--slurm=partition=gpu,time=1:00:00", "--dry_run", "--rows=unknown")
    assert "#SBATCH --array=0-1%2" in output and "#SBATCH --time=60" in output

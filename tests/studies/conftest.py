"""A stand-in for trainings, and one small study for the tests that need some."""

import os
import sys

import pytest

from segjax.core.logger import write_json
from segjax.studies import plan
from segjax.studies import run as run_lib
from segjax.studies.run import Slot, run_all
from segjax.studies.study import Axis, Published, Study, to_dict
from tests.process import FAST, ROOT
from tests.studies.test_plan import tiny

STAND_IN = """
import json, os, pathlib, signal, sys, time
workdir = pathlib.Path(sys.argv[1])
def save(*_):
    (workdir / "checkpoints/2").mkdir(parents=True, exist_ok=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("cores", sorted(os.sched_getaffinity(0)), os.environ.get("DEVICE"), flush=True)
seconds = json.loads((workdir / "config.json").read_text())["optimizer"]["weight_decay"]
if seconds == 1:
    print("error: it cannot be", flush=True)
    sys.exit(3)
time.sleep(60 if seconds == 2 else 0)
(workdir / "summary.json").write_text(json.dumps({"step": 3, "mIoU": 0.5}))
"""
"""Finishes; fails where weight_decay is 1; where it is 2 it waits for a signal."""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(run_lib, "command", lambda workdir: [sys.executable, "-S", str(script), str(workdir)])


def runs_of(tmp_path, **decay):
    study = tiny(seeds=(0,))
    runs = []
    for name, value in decay.items():
        config = study.base.copy_and_resolve_references()
        config.optimizer.weight_decay = float(value)
        runs.append(plan.Run(plan.Row(name, (), {}), 0, config.lock(), tmp_path / "study" / name / "0"))
    return runs


def small_study(data_dir) -> Study:
    """Two rows that can be trained in a few steps, and one whose model is not there, which only building it tells."""
    values = {"2": {}, "4": {"model.width": 4}, "unknown": {"model.name": "unett"}}
    base = tiny(data_dir).base
    base.training.update(log_every=1, eval_every=2)
    base.evaluation.update(batch_size=100, images=1)
    published = {"4": Published(50.0, "Table 2", "larger images")}
    return Study("small", "a paper", base, (Axis("width", values),), seeds=(0, 1), published=published)


@pytest.fixture(scope="session")
def finished(prepared_dir, tmp_path_factory):
    """(workdir, outcome, lines) of a study of which all was run but one run that must fail, and one that was left."""
    workdir, lines = tmp_path_factory.mktemp("study"), []
    study = small_study(prepared_dir)
    write_json(workdir / "study.json", to_dict(study))
    runs = [run for run in plan.plan_runs(study, workdir) if run.name != "unknown/1"]
    alone = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": FAST, "JAX_PLATFORMS": "cpu"}
    alone["JAX_COMPILATION_CACHE_DIR"] = os.path.expanduser("~/.cache/segjax/xla-tests")
    slots = [Slot("first", alone), Slot("second", alone)]

    def write_status():
        write_json(workdir / "study-status.json", {"runs": plan.status(study, workdir)})

    return workdir, run_all(runs, slots, lines.append, write_status), lines

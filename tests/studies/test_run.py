"""Runs of a study: side by side, failing, stopped and going on; with a stand-in for the training, and with some. And
what is read of these, against the files themselves, here since one process can then make them once."""

import json
import os
import re
import shutil
import signal
import threading
import time

import numpy as np
import pytest

from segjax.core import config as config_lib
from segjax.studies import plan
from segjax.studies import run as run_lib
from segjax.studies.read import read_curves, read_study
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
    assert run_all([run], [Slot("here")], lines.append).left_out == ("a/0",)
    assert lines[0].startswith("left out  a/0") and lines[1].startswith("0 of 1 runs to do")
    with pytest.raises(BlockingIOError):
        run_lib.start(run.workdir, Slot("here"))
    process.kill()
    process.wait()
    assert plan.state(run) == "new"


def test_a_run_goes_on_with_what_may_change(stand_in, tmp_path):
    """And a finished one, where more steps are asked for and allowed."""
    study = tiny(seeds=(0,))
    (run,) = plan.plan_runs(study, tmp_path, ["base"])
    written(run, checkpoint=1)
    study.base.training.log_every = 1
    (again,) = plan.plan_runs(study, tmp_path, ["base"])
    assert again.config != run.config
    assert run_all([again], [Slot("here")], lambda line: None, interval=0.01) == run_lib.Outcome({})
    assert config_lib.load_workdir_config(run.workdir) == again.config
    study.base.training.steps, study.base.checkpoint.allow_config_change = 5, True
    (more,) = plan.plan_runs(study, tmp_path, ["base"])
    assert plan.state(again) == "finished" and plan.state(more) == "begun"
    assert list(run_all([more], [Slot("here")], lambda line: None, interval=0.01).failed) == [
        "base/0"
    ]  # ends at step 3
    assert config_lib.load_workdir_config(run.workdir).training.steps == 5


def test_a_run_that_another_process_takes_meanwhile_is_left_to_it(stand_in, tmp_path):
    runs = runs_of(tmp_path, a=0, b=0, c=0)
    lines, held = [], []

    def say(line):
        lines.append(line)
        if line.startswith("started   a"):  # the other process has b, and has finished c
            runs[1].workdir.mkdir(parents=True)
            held.append(plan.lock(runs[1].workdir))
            written(runs[2], summary=dict(step=runs[2].config.training.steps))

    outcome = run_all(runs, [Slot("here")], say, interval=0.01)
    held[0].close()
    assert outcome == run_lib.Outcome({}, 0, ("b/0",))
    assert any(line.startswith("left out  b/0: a training is already at work") for line in lines)
    assert not any("c/0" in line for line in lines)


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


def test_everything_of_the_finished_runs_is_there(finished):
    workdir, _, _ = finished
    found = read_study(workdir)
    assert (found.title, found.paper, found.mode, found.axes) == ("small", "a paper", "one_at_a_time", ("width",))
    assert [row.name for row in found.rows] == ["base", "4", "unknown"]
    assert found.rows[1].changes == {"model.width": 4}
    assert found.published["4"].source == "Table 2"
    assert set(found.runs) == {(row, seed) for row in ("base", "4") for seed in (0, 1)}
    assert [run.seed for run in found.seeds_of("4")] == [0, 1]
    states = [(entry["row"], entry["seed"], entry["state"]) for entry in found.unfinished]
    assert states == [("unknown", 0, "failed"), ("unknown", 1, "missing")]
    assert "model must be one of" in found.unfinished[0]["error"]
    assert found.protocol["dataset"] == found.dataset["name"] == "digit_scenes"
    for (row, seed), run in found.runs.items():
        summary = json.loads((workdir / row / str(seed) / "summary.json").read_text())
        assert run.scores["mIoU"] == run.summary["mIoU"] == summary["mIoU"]
        assert (run.config.seed, run.config.model.width) == (seed, 4 if row == "4" else 2)
        assert len(run.classes) == len(run.confusion) == len(run.per_class["iou"])
        np.testing.assert_array_equal(run.curves["train/loss"][0], [1, 2, 3])
        np.testing.assert_array_equal(run.curves["val/mIoU"][0], [2, 3])
        assert run.curves["val/mIoU"][1, -1] == pytest.approx(summary["mIoU"])
        assert [path.suffix for path in run.predictions.values()] == [".png"]
    assert found.runs["base", 0].summary["params_sha256"] != found.runs["base", 1].summary["params_sha256"]


def test_the_images_counts_sum_to_the_confusion_matrix(finished):
    for run in read_study(finished[0]).runs.values():
        counts = run.per_image
        assert counts.intersection.shape == (run.evaluation["images"], len(run.classes))
        assert len(set(counts.ids.tolist())) == len(counts.ids) == run.evaluation["images"]
        np.testing.assert_array_equal(counts.intersection.sum(0), np.diag(run.confusion))
        np.testing.assert_array_equal(counts.labelled.sum(0), run.confusion.sum(1))
        np.testing.assert_array_equal(counts.predicted.sum(0), run.confusion.sum(0))
        union = counts.labelled.sum(0) + counts.predicted.sum(0) - counts.intersection.sum(0)
        iou = counts.intersection.sum(0)[union > 0] / union[union > 0]
        assert iou.mean() == pytest.approx(run.scores["mIoU"], rel=1e-12), "any choice of images gives mIoU like this"


def test_other_scores_of_a_run_are_passed_over_and_other_labels_are_an_error(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "copy")
    (path,) = (workdir / "4" / "1").glob("evaluation-*.json")
    scores = json.loads(path.read_text())
    later = {**scores, "weights": "of segjax.evaluate", "scores": {**scores["scores"], "mIoU": 0.99}}
    path.with_name("evaluation-a_test.json").write_text(json.dumps(later))
    assert read_study(workdir).runs["4", 1].scores["mIoU"] == scores["scores"]["mIoU"]
    for name, value in (("flip", True), ("size_multiple", 1)):
        scores["protocol"][name] = value
    path.write_text(json.dumps(scores))
    assert len(read_study(workdir).runs) == 4, "how it is predicted may be what a study compares"
    scores["protocol"]["split"] = "test"
    path.write_text(json.dumps(scores))
    with pytest.raises(ValueError, match=r"base/0 and 4/1 differ: split: val \| test"):
        read_study(workdir)


def test_scores_of_other_weights_are_not_taken_for_the_trainings(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy")
    (path,) = (tmp_path / "copy/base/0").glob("evaluation-*.json")
    found = json.loads(path.read_text())
    sha = json.loads((path.parent / "summary.json").read_text())["evaluated_params_sha256"]
    path.write_text(json.dumps({**found, "weights": "base/0", "evaluated_params_sha256": sha}))
    read_study(tmp_path / "copy")  # segjax.evaluate has found the same
    for other in ({"evaluated_params_sha256": "0"}, {"scores": {**found["scores"], "mIoU": 0.99}}):
        path.write_text(json.dumps({**found, **other}))
        with pytest.raises(
            FileNotFoundError, match=r"base/0 must hold the evaluation.* received evaluation-digit_scenes"
        ):
            read_study(tmp_path / "copy")


def test_a_folder_without_a_study_and_one_without_runs(tmp_path, finished):
    with pytest.raises(FileNotFoundError, match="study.json must be there"):
        read_study(tmp_path)
    shutil.copy(finished[0] / "study.json", tmp_path)
    found = read_study(tmp_path)
    assert not found.runs and not found.protocol and len(found.unfinished) == 6


def test_curves_have_nan_for_null_and_pass_over_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 2.0}\n{"step": 3, "a": null, "b": 1}\n{"step": 4, "a"')
    curves = read_curves(path)
    np.testing.assert_array_equal(curves["a"], [[1, 3], [2, np.nan]])
    np.testing.assert_array_equal(curves["b"], [[3], [1]])
    assert read_curves(tmp_path / "none") == {}

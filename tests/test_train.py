"""A training as a person starts it: its files, its end by a signal, its going on, its errors."""

import json
import re
import signal
import subprocess
import time

import pytest

from segjax.core.logger import read_metrics
from tests.process import ROOT, SMALL, fast, run, start, summary


def small(prepared_dir, workdir, *more):
    return [*SMALL, f"--config.data.dir={prepared_dir}", f"--workdir={workdir}", *more]


def test_a_workdir_holds_what_is_promised(trained):
    workdir, output = trained
    found = summary(workdir)
    for name in (
        "mIoU pixel_accuracy mean_accuracy train_loss step seed images_per_second steps_per_second seconds params"
        " params_sha256 peak_memory_bytes flops_per_step device_kind git_commit versions"
    ).split():
        assert found[name] not in (None, ""), name
    assert found["step"] == 12
    assert re.fullmatch("[0-9a-f]{64}", found["params_sha256"])
    evaluation = json.loads((workdir / "evaluation-digit_scenes_val_32x32_whole.json").read_text())
    assert evaluation["protocol"]["resize"] == "32x32"
    assert evaluation["scores"]["mIoU"] == pytest.approx(found["mIoU"])
    assert sum(map(sum, evaluation["confusion"]["pixels"])) == evaluation["images"] * 32 * 32
    assert len(list((workdir / "predictions").glob("*.png"))) == 2
    assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
    for name in ("config.json", "dataset.json", "curves.png", "weights.safetensors"):
        assert (workdir / name).stat().st_size > 0
    steps = [line["step"] for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line]
    assert steps == [2, 3, 4, 6, 8, 9, 10, 12]
    assert "compiled in" in output
    assert "mIoU" in output
    assert re.search(r"step 6/12 .*images/s .*waiting .*left 0:00", output)


def test_a_second_start_of_a_finished_run_evaluates_only(trained, prepared_dir):
    workdir, _ = trained
    before = summary(workdir)
    output = run("train", *small(prepared_dir, workdir))
    assert "going on from step 12" in output
    assert "compiling the training step" not in output
    after = summary(workdir)
    for name in ("params_sha256", "mIoU", "train_loss", "images_per_second", "seconds", "flops_per_step"):
        assert after[name] == before[name], name


def kill_when(process: subprocess.Popen, condition, seconds: float = 120) -> None:
    """SIGKILL a process as soon as the condition holds; fails where it ended first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None and not condition():
        time.sleep(0.0005)
    alive = process.poll() is None
    process.kill()
    output, _ = process.communicate()
    assert alive, output


def finished(checkpoints):
    return {path.name for path in checkpoints.glob("*") if path.name.isdigit()}


@pytest.mark.parametrize(
    "moment", ["in a save", "between two saves", pytest.param("before the first save", marks=pytest.mark.slow)]
)
def test_killed_at_any_moment_it_ends_bit_for_bit_the_same(trained, prepared_dir, tmp_path, moment):
    checkpoints = tmp_path / "checkpoints"
    conditions = {
        "in a save": lambda: any("tmp" in path.name for path in checkpoints.glob("*")),
        "between two saves": lambda: {"3"} <= finished(checkpoints),
        "before the first save": lambda: (tmp_path / "metrics.jsonl").exists(),
    }
    process = start("train", *small(prepared_dir, tmp_path))
    kill_when(process, conditions[moment])
    assert not (tmp_path / "summary.json").exists()
    output = run("train", *small(prepared_dir, tmp_path))
    if moment == "between two saves":
        assert "going on from step" in output
    workdir, _ = trained
    expected, got = summary(workdir), summary(tmp_path)
    assert got["params_sha256"] == expected["params_sha256"]
    assert got["mIoU"] == expected["mIoU"]
    lines = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl") if "train/loss" in line]
    assert lines == sorted(set(lines))


def test_sigterm_saves_and_ends_with_status_zero(trained, prepared_dir, tmp_path):
    process = start("train", *small(prepared_dir, tmp_path, "--config.training.steps=100000"))
    while not (tmp_path / "metrics.jsonl").exists() or not read_metrics(tmp_path / "metrics.jsonl"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    step = int(re.search(r"stopped by SIGTERM after step (\d+); the state is saved", output)[1])
    assert str(step) in finished(tmp_path / "checkpoints")


def test_another_config_is_refused_and_names_the_fields(trained, prepared_dir):
    workdir, _ = trained
    changed = "--config.optimizer.learning_rate=0.5"
    output = run("train", *small(prepared_dir, workdir, changed), status=1)
    assert "optimizer.learning_rate: 0.004 -> 0.5" in output
    assert "allow_config_change" in output


def test_a_change_that_cannot_be_made_leaves_the_config_as_it_was(trained, prepared_dir):
    workdir, _ = trained
    before = (workdir / "config.json").read_text()
    changes = ("--config.checkpoint.allow_config_change", "--config.model.width=8")
    output = run("train", *small(prepared_dir, workdir, *changes), status=1)
    assert "must have the state of the model" in output and "Traceback" not in output
    changes = ("--config.checkpoint.allow_config_change", "--config.training.steps=3")
    assert "training.steps must be at least 12" in run("train", *small(prepared_dir, workdir, *changes), status=1)
    assert (workdir / "config.json").read_text() == before
    assert "Traceback" not in output


def test_a_run_without_a_checkpoint_may_change_its_config(prepared_dir, tmp_path):
    run("train", *small(prepared_dir, tmp_path, "--config.model.name=unett"), status=1)
    run("train", *small(prepared_dir, tmp_path, "--config.training.steps=2"))
    assert summary(tmp_path)["step"] == 2


@pytest.mark.parametrize(
    ("flag", "status", "message"),
    [
        ("--config.optimizer.learning_rat=0.1", 2, "learning_rate"),
        ("--config.training.steps=many", 2, "steps"),
        ("--config.model.name=unett", 1, "did you mean 'unet'"),
        ("--config.data.name=digit_scene", 1, "did you mean 'digit_scenes'"),
        ("--config.optimizer.schedule=cosin", 1, "did you mean 'cosine'"),
        ("--config.evaluation.split=validation", 1, "val"),
        ("--config.data.split=training", 1, "received 'training'"),
        ("--config.init.path=/nowhere.safetensors", 1, "neither"),
    ],
)
def test_wrong_configs_fail_in_words_before_anything_is_compiled(prepared_dir, tmp_path, flag, status, message):
    output = run("train", *small(prepared_dir, tmp_path / "run", flag), status=status)
    assert message in output
    assert "compiling" not in output
    assert "Traceback" not in output


def test_nan_stops_with_step_parts_and_examples(prepared_dir, tmp_path):
    output = run(
        "train",
        *small(prepared_dir, tmp_path, "--config.optimizer.learning_rate=1e30", "--config.checkpoint.every=1"),
        status=1,
    )
    assert re.search(r"at step \d+ these were not: .*the gradient of", output)
    assert output.count("train_") >= 4, "the ids of the four examples"
    assert "on_nonfinite=skip" in output
    assert not (tmp_path / "summary.json").exists()
    bad_step = int(re.search(r"at step (\d+) these", output)[1])
    assert max(map(int, finished(tmp_path / "checkpoints")), default=0) <= bad_step


def test_two_processes_train_as_one(prepared_dir, tmp_path):
    """The reference is one process with two devices: both add two numbers, so nothing may differ at all."""
    one, two = tmp_path / "one", tmp_path / "two"
    run("train", *small(prepared_dir, one), XLA_FLAGS="--xla_force_host_platform_device_count=2")
    command = ["bash", str(ROOT / "launch.sh"), "--processes", "2", "train", *small(prepared_dir, two)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=fast(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    expected, found = summary(one), summary(two)
    assert (expected["processes"], expected["devices"]) == (1, 2)
    assert (found["processes"], found["devices"]) == (2, 2)
    assert finished(two / "checkpoints") == finished(one / "checkpoints")
    assert found["train_loss"] == expected["train_loss"]
    assert found["mIoU"] == expected["mIoU"]
    assert found["params_sha256"] == expected["params_sha256"]

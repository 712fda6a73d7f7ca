"""Which runs there are, what is wrong with them, how far they are, and what they will cost."""

import json

import pytest

from experiments.digit_scenes.unet import get_config
from segjax import ablate, build_study
from segjax.core import config as config_lib
from segjax.studies import plan
from segjax.studies.plan import Cost, Estimate
from segjax.studies.study import Axis, Study

WIDTH = Axis("width", {"2": {}, "4": {"model.width": 4}})


def tiny(data_dir="", axes=(WIDTH,), seeds=(0, 1)):
    base = get_config().copy_and_resolve_references()
    base.data.update(size=(32, 32), dir=str(data_dir), check=False)
    base.model.update(width=2, depth=1)
    base.training.steps = 3
    base.optimizer.warmup_steps = 0
    return Study("tiny", "", base, axes, seeds=seeds)


def written(run, **files):
    """Files of a workdir: name=content, with `checkpoint` a step, and the run's own config."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    (run.workdir / "config.json").write_text(config_lib.to_json(files.pop("config", run.config)))
    if "checkpoint" in files:
        (run.workdir / "checkpoints" / str(files.pop("checkpoint"))).mkdir(parents=True)
    for name, content in files.items():
        (run.workdir / f"{name}.json").write_text(json.dumps(content))


def test_runs_are_all_rows_with_the_first_seed_first(tmp_path):
    runs = plan.plan_runs(tiny(), tmp_path)
    assert [run.name for run in runs] == ["base/0", "4/0", "base/1", "4/1"]
    assert runs[3].workdir == tmp_path / "4" / "1"
    assert (runs[3].config.model.width, runs[3].config.seed) == (4, 1)
    assert [run.name for run in plan.plan_runs(tiny(), tmp_path, ["4"], [1])] == ["4/1"]
    with pytest.raises(ValueError, match="did you mean 'base'"):
        plan.plan_runs(tiny(), tmp_path, ["bas"])
    with pytest.raises(ValueError, match="received \\[2\\]"):
        plan.plan_runs(tiny(), tmp_path, seeds=[0, 2])


def test_every_problem_of_every_run_is_said_once(tmp_path):
    wrong = {
        "a": {},
        "b": {"model.widht": 1},
        "c": {"optimizer.schedule": "cosin", "training.accumulate": 3},
        "d": {"training.accumulate": 3},
    }
    with pytest.raises(ValueError) as error:
        plan.plan_runs(tiny(axes=(Axis("x", wrong),)), tmp_path)
    text = str(error.value)
    assert "nothing was run" in text
    assert "config.model.widht is unknown" in text and "in b/0, b/1" in text
    assert "'cosin' is unknown; did you mean 'cosine'" in text and "in c/0, c/1" in text
    assert text.count("config.training.accumulate must be") == 1 and "in c/0, d/0, c/1, d/1" in text


def test_a_workdir_with_another_config_is_an_error_that_names_the_difference(tmp_path):
    runs = plan.plan_runs(tiny(), tmp_path)
    written(runs[0], checkpoint=2)
    written(runs[1])  # nothing has begun, so its config may change
    other = tiny()
    other.base.optimizer.learning_rate = 0.5
    other.base.training.log_every = 7  # may differ when a run goes on
    with pytest.raises(ValueError) as error:
        plan.plan_runs(other, tmp_path)
    assert "optimizer.learning_rate: 0.004 -> 0.5" in str(error.value)
    assert "base/0" in str(error.value) and "log_every" not in str(error.value) and "4/0" not in str(error.value)
    with pytest.raises(ValueError, match="in base/0"):  # also where it is not asked for: study.json is of all
        plan.plan_runs(other, tmp_path, ["4"], [1])
    other.base.checkpoint.allow_config_change = True
    assert len(plan.plan_runs(other, tmp_path)) == 4


def test_states_are_what_the_disk_says(tmp_path):
    new, begun, failed, finished = plan.plan_runs(tiny(), tmp_path)
    written(begun, checkpoint=2)
    written(failed, checkpoint=1, failure={"error": "no memory"})
    written(finished, checkpoint=3, summary={"step": 3})
    assert [plan.state(run) for run in (new, begun, failed, finished)] == ["new", "begun", "failed", "finished"]
    held = plan.lock(begun.workdir)
    assert plan.state(begun) == "at work"
    with pytest.raises(BlockingIOError, match="already at work"):
        plan.lock(begun.workdir)
    held.close()
    assert plan.state(begun) == "begun"
    assert plan.status(tiny(), tmp_path) == [
        {"row": "base", "seed": 0, "state": "missing"},
        {"row": "base", "seed": 1, "state": "failed", "error": "no memory"},
        {"row": "4", "seed": 0, "state": "missing"},
        {"row": "4", "seed": 1, "state": "finished"},
    ]


def test_estimates_take_the_nearest_thing_that_was_measured(tmp_path):
    axis = Axis("width", {"2": {}, "4": {"model.width": 4}, "8": {"model.width": 8}})
    runs = {run.name: run for run in plan.plan_runs(tiny(axes=(axis,), seeds=(0, 1, 2)), tmp_path)}
    costs = {"base": Cost(1e9, 0), "4": Cost(4e9, 0), "8": Cost(16e9, 0)}
    lower = plan.estimate(runs["4/0"], costs, {}, rate=2e9)
    assert lower.seconds == pytest.approx(3 * 4e9 / 2e9) and "at least, at 2 GFLOP/s" in lower.source
    measured = {"flops_per_step": 1e9, "steps_per_second": 0.5, "seconds": 70.0}
    summaries = {("base", 0): measured, ("8", 1): {**measured, "flops_per_step": 16e9}}
    found = plan.estimate(runs["4/0"], {**costs, "4": Cost(3e9, 0)}, summaries, rate=1.0)
    assert found.seconds == pytest.approx(3 * 3e9 / 0.5e9) and "base/0" in found.source
    found = plan.estimate(runs["4/0"], {**costs, "4": Cost(5e9, 0)}, summaries, rate=1.0)
    assert found.seconds == pytest.approx(3 * 5e9 / 8e9) and "8/1" in found.source
    written(runs["8/2"], checkpoint=1)
    summaries["8", 0] = {**measured, "seconds": 50.0}
    assert plan.estimate(runs["8/2"], costs, summaries, 1.0) == Estimate(pytest.approx(2 / 3 * 60), "as seed 0, 1")
    assert plan.estimate(runs["4/0"], {}, {}, 1.0) is None


def test_the_plan_compiles_and_does_not_run(prepared_dir, tmp_path, monkeypatch, capsys):
    """Without a call of a compiled step: XLA's own analysis says what a run of it would take."""
    axes = (Axis("model", {"2": {}, "4": {"model.width": 4}, "none": {"model.name": "unett"}}),)
    runs = plan.plan_runs(tiny(prepared_dir, axes, (0,)), tmp_path)
    monkeypatch.setattr(build_study, "matrix_rate", lambda dtype: 1e9)
    monkeypatch.setattr("jax.stages.Compiled.call", lambda *_: pytest.fail("a compiled step was executed"))
    text = ablate.show_plan(runs)
    lines = [line.split() for line in text.splitlines()]
    assert lines[1][:2] == ["base/0", "new"] and lines[2][:2] == ["4/0", "new"]
    assert lines[3] == ["none/0", "new", "-", "-", "-"]
    assert float(lines[2][3]) > 2 * float(lines[1][3]) > 0, "four times as many products in each inner layer"
    assert "none cannot be built: model must be one of" in text and "did you mean 'unet'" in text
    assert "3 runs, 0 finished" in text
    assert not list(tmp_path.iterdir())


def test_the_cost_is_that_of_the_arrays(prepared_dir):
    """At least state and batch lie in memory: float32 parameters and two moments, images and labels."""
    import jax

    from segjax import build
    from segjax.core import sharding

    config = tiny(prepared_dir).base
    config.optimizer.name = "adamw"
    cost = build_study.step_cost(config)
    info = build.datasets(config, ["train"])["train"].info
    _, shapes, _ = build.state(config, build.model(config, info), sharding.make_mesh(1, 1))
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    batch = config.data.batch_size * 32 * 32 * (3 * 4 + 1)
    assert state + batch <= cost.memory < 100 * (state + batch)
    kernel = 2 * 9 * 3 * 2 * 32 * 32 * config.data.batch_size  # of the first convolution alone, forward
    assert cost.flops > 3 * kernel
    assert build_study.devices_per_run(config) == 1
    config.parallel.update(data=2, fsdp=2)
    assert build_study.devices_per_run(config) == 4

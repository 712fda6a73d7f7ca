"""Train, evaluate and save a segmenter.

  python -m segjax.train --config experiments/digit_scenes/unet.py --workdir runs/x \\
      --config.optimizer.learning_rate=0.01

The same command goes on from the newest checkpoint when a run was interrupted. The workdir holds config.json,
metrics.jsonl, summary.json, curves.png, tensorboard/, checkpoints/, predictions/, weights.safetensors,
evaluation-<protocol>.json and, where it began from weights (config.init.path), init_report.txt.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import flags
from jax.sharding import Mesh
from ml_collections import config_flags

from segjax import build, build_evaluation
from segjax.core import config as config_lib
from segjax.core import program, sharding
from segjax.core.curves import plot_curves
from segjax.core.logger import Logger, duration, read_json, read_metrics, write_json
from segjax.core.main import run
from segjax.core.validation import validate
from segjax.data import pipeline
from segjax.data.checks import check_dataset
from segjax.evaluation.evaluator import score_table
from segjax.training.checkpoint import Checkpointer, CheckpointError, versions
from segjax.training.loop import NonFiniteError, Preempted, SigtermFlag, fit
from segjax.training.state import count_parameters, params_sha256
from segjax.training.step import jit_train_step
from segjax.training.weights import save_weights
from segjax.training.workdir import check_config, environment, peak_memory_bytes, write_identity, write_init_report


def main(terminated: Callable[[int], bool]) -> None:
    """The whole run, from flags to summary.json, in the order in which it happens.

    Args:
      terminated: step -> whether SIGTERM has come, so that training should stop after this step.
    """
    config, workdir = CONFIG.value, Path(WORKDIR.value).expanduser()
    validate(config)
    steps, split, batch_size = config.training.steps, config.evaluation.split, config.data.batch_size
    train_split = config.data.split
    mesh = sharding.make_mesh(**config.parallel)
    sharding.check_batch_size("config.data.batch_size", batch_size, mesh, config.training.accumulate)
    sharding.check_batch_size("config.evaluation.batch_size", config.evaluation.batch_size, mesh)
    sharding.check_rows("config.data.crop_size", config.data.crop_size[0], mesh)
    check_config(workdir, config)
    facts = environment(mesh.size)  # now, since the checkout may change while this runs

    datasets = build.datasets(config, [train_split, split])
    if config.data.check and sharding.is_main_process():
        check_dataset(datasets)
    sharding.wait_for_all("the data is checked")
    train, info = build.cached_dataset(config, datasets[train_split]), datasets[train_split].info
    batches = build.training_batches(config, train)
    model = build.model(config, info)
    init, shapes, shardings = build.state(config, model, mesh)
    train_step = jit_train_step(build.train_step(config, model, info, shapes.params, mesh), shardings, mesh)
    evaluator = build_evaluation.evaluator(config, build.cached_dataset(config, datasets[split]), model, mesh)

    with Checkpointer(workdir, config.checkpoint.keep) as checkpointer, contextlib.ExitStack() as stack:
        start, state, meta = checkpointer.restore_latest(shapes, set_aside=True) or (0, None, {})
        if start > steps:
            raise ValueError(
                f"config.training.steps must be at least {start}, the step of the newest checkpoint in {workdir};"
                f" received {steps}. Take another --workdir to train anew"
            )
        write_identity(workdir, config, info)
        reports = []
        state = init(reports.append) if state is None else state
        began = time.monotonic() - meta.get("seconds", 0.0)

        logger = stack.enter_context(Logger(workdir, steps=steps, start=start))
        if meta:
            logger.say(f"going on from step {start} of {steps} in {workdir}")
        logger.say(
            f"{config.model.name}, {count_parameters(shapes.params):,} parameters; {info.name},"
            f" {len(train)} training and {len(datasets[split])} {split} examples, {info.num_classes} classes;"
            f" {mesh.size} x {jax.devices()[0].device_kind}"
        )
        for report in reports:
            logger.say(f"{report.summary()}\n  each key: {write_init_report(workdir, report.text())}")
        flops = None
        if start < steps:
            first = sharding.put_batch(mesh, batches[start])
            train_step, flops = compile_step(train_step, shapes, first, mesh, logger)

        def evaluate(state, step):
            scores = evaluator(state.eval_variables())
            logger.scalars(step, evaluator.scalars(scores), prefix=f"{split}/")
            for name, panel in evaluator.panels.items():
                logger.image(step, f"{split}/{name}", panel)
            logger.say(f"step {step}: {split} mIoU {100 * scores['mIoU']:.2f} %")
            return scores

        def example_ids(step):
            if config.data.clip.carry:
                return [train.ids[index] for index in batches[step]["index"]]
            examples = build.training_examples(config, train)
            order = pipeline.training_order(len(examples), steps * batch_size, config.seed)
            return [examples.ids[order[n]] for n in range(step * batch_size, (step + 1) * batch_size)]

        state, results = fit(
            state,
            train_step,
            pipeline.prefetch_to_device(
                pipeline.iterate(batches, start=start, stop=steps, workers=config.data.workers),
                lambda batch: sharding.put_batch(mesh, batch),
            ),
            steps=steps,
            batch_size=batch_size,
            log_every=config.training.log_every,
            eval_every=config.training.eval_every,
            checkpoint_every=config.checkpoint.every,
            evaluate=evaluate,
            save=lambda step, state, scores: checkpointer.save(
                step, state, config_lib.to_json(config), scores, seconds=time.monotonic() - began
            ),
            logger=logger,
            stop_on_nonfinite=config.training.on_nonfinite == "stop",
            example_ids=example_ids,
            terminated=terminated,
        )
        checkpointer.wait()
        scores = results.pop("scores")
        params, variables = sharding.fetch((state.params, state.eval_variables()))
        if sharding.is_main_process():
            evaluator.write(workdir, scores)
            save_weights(workdir / "weights.safetensors", variables)
            seconds = time.monotonic() - began
            if start == steps:  # nothing was trained this time, so speed and loss are those of then
                earlier = read_json(workdir / "summary.json")
                if earlier.get("step") != steps:  # killed before its summary was written
                    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line]
                    last = lines[-1] if lines else {}
                    earlier = {name.removeprefix("train/"): value for name, value in last.items()}
                    earlier["train_loss"] = last.get("train/loss")
                results = {name: earlier.get(name) for name in results} | {"skipped": results["skipped"]}
                flops, seconds = earlier.get("flops_per_step"), earlier.get("seconds", seconds)
            summary = {
                **evaluator.scalars(scores),
                **results,
                "step": steps,
                "best_step": checkpointer.best_step(),
                "seed": config.seed,
                "seconds": seconds,
                "params": count_parameters(params),
                "params_sha256": params_sha256(params),
                "evaluated_params_sha256": params_sha256(variables["params"]),
                "flops_per_step": flops,
                "peak_memory_bytes": peak_memory_bytes(),
                "versions": versions(),
                **facts,
            }
            write_json(workdir / "summary.json", summary)
            plot_curves(workdir / "curves.png", read_metrics(workdir / "metrics.jsonl"), split)
            logger.say(score_table(scores, info.class_names, evaluator.protocol))
            logger.say(f"pictures: {workdir}/predictions   curves: {workdir}/curves.png")
            logger.say(f"took {duration(seconds)}; everything is in {workdir}")


def compile_step(train_step, shapes, batch, mesh: Mesh, logger: Logger):
    """(compiled step, its FLOPs over all devices), with the time that it took said aloud."""
    logger.say("compiling the training step ...")
    before = time.monotonic()
    compiled = train_step.lower(shapes, batch).compile()
    logger.say(f"compiled in {time.monotonic() - before:.1f} s")
    return compiled, mesh.size * program.flops(compiled)


def main_or_pause() -> None:
    """SIGTERM is a request to pause, not a failure: it ends with status 0, or with SEGJAX_PAUSED_STATUS, so that a
    cluster that starts what failed goes on with it."""
    try:
        with SigtermFlag() as terminated:
            main(terminated)
    except Preempted as pause:
        if sharding.is_main_process():
            print(f"{pause}; the state is saved. The same command goes on from there", flush=True)
        sys.exit(int(os.environ.get("SEGJAX_PAUSED_STATUS", "0")))


if __name__ == "__main__":
    # Here, so that several mains can be imported into one process.
    CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file; FILE:VARIANT picks a variant of it.")
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made where it is not there.")
    run(main_or_pause, required=("config", "workdir"), expected=(CheckpointError, NonFiniteError))

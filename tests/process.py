"""Running a main as a process of its own, small enough for a test."""

import json
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = [
    "--config=experiments/digit_scenes/unet.py",
    "--config.data.size=(32, 32)",
    "--config.data.batch_size=4",
    "--config.data.check=False",
    "--config.data.augment.flip_horizontal=0.5",
    "--config.model.width=4",
    "--config.model.depth=2",
    "--config.optimizer.learning_rate=0.004",
    "--config.optimizer.warmup_steps=0",
    "--config.training.steps=12",
    "--config.training.log_every=2",
    "--config.training.eval_every=0",
    "--config.checkpoint.every=3",
    "--config.evaluation.batch_size=100",
    "--config.evaluation.images=2",
]
"""A training of seconds on one device."""

FAST = "--xla_backend_optimization_level=0"
"""For XLA_FLAGS: compiling is most of what a short main does."""

FORKS = multiprocessing.get_context("forkserver")
"""Its processes begin where the modules below are imported already, which is most of what a short main does."""
FORKS.set_forkserver_preload(["segjax.build", "segjax.evaluation.evaluator", "segjax.training.checkpoint"])


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without the eight simulated devices."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return kept | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | changes


def fast(XLA_FLAGS: str = "", **changes: str) -> dict[str, str]:
    """`environment` of a main that compiles with little optimisation."""
    return environment(XLA_FLAGS=f"{FAST} {XLA_FLAGS}", **changes)


def start(main: str, *arguments: object, **changes: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"segjax.{main}", *map(str, arguments)],
        cwd=ROOT,
        env=fast(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(main: str, *arguments: object, status: int = 0, **changes: str) -> str:
    """Run a main to its end; fails unless it ends with `status`. Returns what it printed.

    It is a process of FORKS, with its own devices, working folder and environment. What JAX reads from the environment
    when it is imported cannot be changed.
    """
    with tempfile.NamedTemporaryFile("r", prefix="segjax-", suffix=".txt", errors="replace") as file:
        process = FORKS.Process(target=_run, args=(main, list(map(str, arguments)), fast(**changes), file.name))
        process.start()
        process.join(240)
        process.kill()
        process.join()
        output = file.read()
    assert process.exitcode == status, f"status {process.exitcode}, not {status}:\n{output}"
    return output


def _run(main, arguments, variables, output):
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = [main, *arguments]
    runpy.run_module(f"segjax.{main}", run_name="__main__", alter_sys=True)


def summary(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())

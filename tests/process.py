"""Running a main as a process of its own, small enough for a test."""

import json
import os
import pathlib
import subprocess
import sys

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


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without the eight simulated devices."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return kept | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | changes


def start(main: str, *arguments: object, **changes: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"segjax.{main}", *map(str, arguments)],
        cwd=ROOT,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(main: str, *arguments: object, status: int = 0, **changes: str) -> str:
    """Run a main to its end; fails unless it ends with `status`. Returns what it printed."""
    process = start(main, *arguments, **changes)
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == status, f"status {process.returncode}, not {status}:\n{output}"
    return output


def summary(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())

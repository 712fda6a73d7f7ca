"""How many times faster the patch CNN's network for whole images is than its windows, slid over the image.

  PYTHONPATH=. python experiments/benchmarks/patch_cnn_dense.py [--variant small] [--size 128]

Both have the same random parameters and give logits of every pixel of one image, float32, compiled. How many windows
are classified at a time changes their speed twofold, so several numbers are tried and the dense network is compared
with the fastest. All alternate, and a time is that of the fastest run, since what else runs on a machine can only slow
a run down. All logits must agree to 1e-5 of the largest.
"""

import argparse
import datetime
import os
import platform
import subprocess
import time
from pathlib import Path

import jax
import numpy as np

from segjax.models.patch_cnn import VARIANTS, PatchCNN, pooled_sides, slide_windows

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 2


def multiplications(window, kernel_sizes, features, hidden):
    """(of a window slid to one pixel, of the network for whole images per pixel); the head's and padding left out."""
    sides = pooled_sides(window, kernel_sizes)
    inputs = (3, *[features] * len(kernel_sizes))
    per_output = [size**2 * channels * features for size, channels in zip(kernel_sizes, inputs, strict=False)]
    fully_connected = (sides[-1] // 2) ** 2 * features * hidden
    of_window = sum(side**2 * cost for side, cost in zip(sides, per_output, strict=True))
    return of_window + fully_connected, sum(per_output) + fully_connected


def slider(model, batch_size):
    return jax.jit(lambda variables, image: slide_windows(model, variables, image, batch_size=batch_size))


def timed(run, *inputs):
    """Seconds until the result is there."""
    began = time.perf_counter()
    jax.block_until_ready(run(*inputs))
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="small", choices=VARIANTS, help="of segjax.models.patch_cnn")
    parser.add_argument("--size", type=int, default=128, help="height and width of the image, pixels")
    parser.add_argument("--batches", default="1,2,4,8,16,64,256", help="numbers of windows at a time that are tried")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each")
    arguments = parser.parse_args()

    model = PatchCNN(CLASSES, **VARIANTS[arguments.variant])
    rng = np.random.default_rng(0)
    image = jax.device_put(rng.standard_normal((1, arguments.size, arguments.size, 3), np.float32))
    variables = jax.jit(model.init)(jax.random.key(0), image)
    dense = jax.jit(model.apply)
    slid = {batch: slider(model, batch) for batch in map(int, arguments.batches.split(","))}

    # The first runs compile, and show that all compute the same.
    logits = np.asarray(dense(variables, image))
    differences = [np.abs(np.asarray(run(variables, image)) - logits).max() for run in slid.values()]
    difference = max(differences) / np.abs(logits).max()
    if not difference <= 1e-5:
        raise SystemExit(f"the logits must agree to 1e-5 of the largest; they differ by {difference:.1e}")

    rounds = range(arguments.rounds)
    times = [[timed(run, variables, image) for run in (dense, *slid.values())] for _ in rounds]
    seconds, *slid_seconds = map(min, zip(*times, strict=True))
    slid_seconds = dict(zip(slid, slid_seconds, strict=True))
    costs = multiplications(**VARIANTS[arguments.variant])
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=ROOT, capture_output=True, text=True
    )
    hardware = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}"
    print(
        f"{arguments.variant}, one image of {arguments.size}x{arguments.size}, fastest of {arguments.rounds} runs each"
    )
    print(f"largest difference of the logits, of the largest logit: {difference:.1e}")
    for batch, each in slid_seconds.items():
        print(
            f"windows, {batch} at a time: {each:.3f} s, {each / seconds:.0f} times the dense network's {seconds:.4f} s"
        )
    print(f"the dense network is {min(slid_seconds.values()) / seconds:.0f} times faster than the fastest of these")
    print(f"multiplications alone: {costs[0]:,} and {costs[1]:,} a pixel, {costs[0] / costs[1]:.0f} times fewer")
    print(f"{hardware}; jax {jax.__version__}; commit {commit.stdout.strip()}; {datetime.date.today()}")


if __name__ == "__main__":
    main()

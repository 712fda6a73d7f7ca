"""Memory of recurrent networks: of a training step against the length of its clip, and of predicting long videos.

  PYTHONPATH=. python experiments/benchmarks/clip_memory.py [--workdir WORKDIR]

The first is read off the compiled program (temporary buffers), with and without rematerialisation, for a U-Net of width
16 with ConvGRUs at strides 8 and 4 and one clip: experiments/results/clip_memory.csv and .png. With --workdir, a
training of clips, videos of 100 and of 1,000 frames are made and `segjax.predict` overlays them; its peak memory and
its frames a second go to experiments/results/stream_memory.csv. That needs imageio-ffmpeg.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from segjax.data.sets import digit_clips
from segjax.data.video import VideoWriter
from segjax.models import build_model

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments/results"
LENGTHS = (2, 4, 8, 16, 32)
SIDE = 96


def step_bytes(length, remat):
    """Bytes of temporary buffers of loss and gradient on one clip of so many frames."""
    network = dict(name="unet", width=16, depth=3)
    model = build_model("conv_rnn", num_classes=11, network=network, strides=(8, 4), remat=remat)
    clip = jax.ShapeDtypeStruct((1, length, SIDE, SIDE, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    )

    def loss(params, stats, clip):
        logits, _ = model.apply({"params": params, "batch_stats": stats}, clip, train=True, mutable=["batch_stats"])
        return jax.nn.logsumexp(logits, -1).mean()

    compiled = jax.jit(jax.grad(loss)).lower(shapes["params"], shapes["batch_stats"], clip).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def stream(workdir, frames):
    """(peak resident MiB, frames a second) of `segjax.predict` on a video of so many frames, in a process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mp4"
        images, _ = digit_clips.clip("val", 0)
        there_and_back = np.concatenate([images, images[::-1]])
        with VideoWriter(path, 24.0) as video:
            for frame in range(frames):
                video.write(there_and_back[frame % len(there_and_back)])
        command = [
            sys.executable,
            "-m",
            "segjax.predict",
            f"--workdir={workdir}",
            f"--input={path}",
            f"--output={folder}",
        ]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} ended with status {status}: {output}")
        return usage.ru_maxrss / 1024, float(re.search(r"([0-9.]+) frames/s", output)[1])


def write(name, rows):
    with (RESULTS / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {RESULTS / name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, help="a training of clips, to stream videos with")
    arguments = parser.parse_args()
    rows = []
    for length in LENGTHS:
        plain, remat = (step_bytes(length, remat) / 2**20 for remat in (False, True))
        rows.append({"frames": length, "plain_MiB": f"{plain:.1f}", "remat_MiB": f"{remat:.1f}"})
        print(rows[-1], flush=True)
    write("clip_memory.csv", rows)
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for key, title in (("plain_MiB", "without"), ("remat_MiB", "with rematerialisation")):
        axes.plot(LENGTHS, [float(row[key]) for row in rows], "o-", label=title)
    axes.set(xlabel="frames of the clip", ylabel="temporary memory of a step, MiB", ylim=(0, None))
    axes.legend()
    figure.savefig(RESULTS / "clip_memory.png", dpi=120)
    if arguments.workdir:
        rows = []
        for frames in (100, 1000):
            peak, rate = stream(arguments.workdir.absolute(), frames)
            rows.append({"frames": frames, "peak_MiB": f"{peak:.0f}", "frames_per_second": f"{rate:.1f}"})
            print(rows[-1], flush=True)
        write("stream_memory.csv", rows)


if __name__ == "__main__":
    main()

"""Time and memory of the fully connected CRF against Kraehenbuehl's C++ code (pydensecrf), both in one run.

  PYTHONPATH=. python experiments/benchmarks/dense_crf.py [--rounds 7]

10 iterations on a picture of scikit-image with made-up energies, the lattice's set-up included, compiling not. The two
alternate, and the ratio is that of the fastest of each one's runs. Memory is what XLA says that the compiled program
needs beside its arguments and results. Needs pydensecrf, which builds from its source:

  pip install cython 'setuptools<80' wheel && pip install --no-build-isolation pydensecrf2

Writes experiments/results/dense_crf.csv.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np

from experiments.benchmarks.facts import RESULTS, facts, write_rows
from segjax.crf import CRFParams, choose_filter, mean_field
from tests.crf.pictures import energies, photo
from tests.references.crf import densecrf

PARAMS = dict(w1=4.0, sigma_alpha=67.0, sigma_beta=3.0, w2=3.0, sigma_gamma=3.0)
SIZES = ((180, 240, 11), (360, 480, 11), (500, 500, 21))
"""Height, width, classes."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS / "dense_crf.csv")
    arguments = parser.parse_args()
    machine = facts()
    params = CRFParams(*(np.float32(value) for value in PARAMS.values()))
    rows = []
    for height, width, classes in SIZES:
        image = photo("astronaut", height, width)
        unary = energies(image, classes)
        ours = jax.jit(mean_field).lower(unary[None], image[None], params).compile()
        started = {"ours": [], "theirs": []}
        runs = {
            "ours": lambda u=unary, x=image, run=ours: jax.block_until_ready(run(u[None], x[None], params)),
            "theirs": lambda u=unary, x=image: densecrf(u, x, **PARAMS),
        }
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                started[name].append(time.perf_counter() - began)
        fastest = {name: min(times) for name, times in started.items()}
        memory = ours.memory_analysis().temp_size_in_bytes
        row = {
            "size": f"{width}x{height}",
            "classes": classes,
            **choose_filter(height, width),
            "segjax_s": f"{fastest['ours']:.3f}",
            "pydensecrf_s": f"{fastest['theirs']:.3f}",
            "ratio": f"{fastest['ours'] / fastest['theirs']:.2f}",
            "bytes_a_pixel": round(memory / (height * width)),
            **machine,
        }
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in list(row.items())[:8]), flush=True)
    write_rows(arguments.output, rows)


if __name__ == "__main__":
    main()

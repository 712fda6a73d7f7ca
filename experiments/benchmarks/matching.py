"""Time of matching segments with queries: on the device, or by SciPy in a callback, both on this machine, in one run.

  PYTHONPATH=. python experiments/benchmarks/matching.py

The matching is that of one prediction of Mask2Former, of which there are ten in a step, with random costs. The two
alternate, and each one's fastest time counts. Writes experiments/results/matching.csv.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from experiments.benchmarks.facts import RESULTS, facts, write_rows
from segjax.training.mask_classification import _assign

CASES = [(2, 100, 11), (2, 100, 24), (16, 100, 20), (16, 150, 150)]
"""Images, queries and segments."""

REPEATS = 20


def on_host(costs):
    found = np.zeros((costs.shape[0], costs.shape[2]), np.int32)
    for image, matrix in enumerate(np.asarray(costs)):
        queries, segments = scipy.optimize.linear_sum_assignment(matrix)
        found[image, segments] = queries
    return found


def in_callback(costs):
    shape = jax.ShapeDtypeStruct((costs.shape[0], costs.shape[2]), jnp.int32)
    return jax.pure_callback(on_host, shape, costs)


def main():
    rows, machine = [], facts()
    for images, queries, segments in CASES:
        costs = jax.random.uniform(jax.random.key(0), (images, queries, segments))
        forms = {"device": jax.jit(jax.vmap(_assign)), "callback": jax.jit(in_callback)}
        totals = {name: jnp.take_along_axis(costs, form(costs)[:, None], 1).sum() for name, form in forms.items()}
        np.testing.assert_allclose(totals["device"], totals["callback"], rtol=1e-5)
        best = dict.fromkeys(forms, float("inf"))
        for _ in range(REPEATS):
            for name, form in forms.items():
                began = time.perf_counter()
                jax.block_until_ready(form(costs))
                best[name] = min(best[name], time.perf_counter() - began)
        row = {"images": images, "queries": queries, "segments": segments}
        row |= {f"{name}_ms": f"{1e3 * seconds:.2f}" for name, seconds in best.items()}
        rows.append(row | machine)
        print(rows[-1], flush=True)
    write_rows(RESULTS / "matching.csv", rows)


if __name__ == "__main__":
    main()

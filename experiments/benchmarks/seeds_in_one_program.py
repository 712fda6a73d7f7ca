"""Two seeds of one small network on a CPU: in one program, by shard_map or vmap, and in a process each.

  PYTHONPATH=. python experiments/benchmarks/seeds_in_one_program.py

Trains the U-Net of experiments/digit_scenes/unet.py at two widths on its own batches, which lie in memory. Every way is
compiled before anything is timed and then waits; in each round all of them take the same steps, one way after the
other, so that what else the machine does falls on all. What counts is the ratio of a round to its time one after the
other, of which the median is given; `cpu_s`, the processor time of a step of both seeds, depends
least on what else runs. At the end the parameters of each seed are compared with those of the seed that
was trained alone. Writes experiments/results/seeds_in_one_program.csv.

  in turn        one process, first the steps of one seed, then those of the other; each has all cores
  processes      two processes at once on all cores
  pinned         two processes at once, each on its half of the cores, and with so many threads less
  shard_map      one program for two simulated devices, a mesh axis `seed`; each trains its own replica
  vmap           one program for one device, the step mapped over stacked states and batches
"""

import argparse
import csv
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WAYS = {"in turn": [(0, 1)], "processes": [(0,), (1,)], "pinned": [(0,), (1,)], "shard_map": [(0, 1)], "vmap": [(0, 1)]}
"""The seeds of each process of a way."""

BATCHES = 4


def worker(way: str, seeds: tuple[int, ...], width: int) -> None:
    """Compile, say so, then do what stdin asks: a number of steps, or a file to save the parameters in."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from experiments.digit_scenes.unet import get_config
    from segjax import build
    from segjax.core import sharding
    from segjax.core.main import quiet_libraries, use_compilation_cache
    from segjax.training import optim
    from segjax.training.state import named_leaves
    from segjax.training.step import make_train_step

    quiet_libraries()
    use_compilation_cache()
    config = get_config().copy_and_resolve_references()
    config.model.width = width
    dataset = build.datasets(config, ["train"])["train"]
    model = build.model(config, dataset.info)
    loss_fn, normaliser = build.loss(config, dataset.info)
    direction = optim.build_direction(config.optimizer)
    mesh = sharding.make_mesh(1, 1)

    states, batches = {}, {}
    for seed in seeds:
        config.seed = seed
        states[seed] = jax.device_get(build.state(config, model, mesh)[0]())
        made = build.training_batches(config, dataset)
        batches[seed] = [{name: made[k][name] for name in ("image", "label")} for k in range(BATCHES)]
    augment = build.augment(config, dataset.info)
    factors = optim.rate_factors(states[seeds[0]].params, config.optimizer.rate_factors)

    def step(seed, state, batch):
        parts = (model, loss_fn, normaliser, direction, build.schedule(config), factors, mesh)
        return make_train_step(*parts, seed=seed, augment=augment)(state, batch)[0]

    def stack(trees):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    if way in ("shard_map", "vmap"):
        together = jax.vmap(step)
        put = jax.device_put
        if way == "shard_map":
            seed_mesh = jax.make_mesh((len(seeds),), ("seed",))
            spec = PartitionSpec("seed")

            def replica(*parts):
                found = step(*jax.tree.map(lambda leaf: leaf[0], parts))
                return jax.tree.map(lambda leaf: leaf[None], found)

            together = jax.shard_map(replica, mesh=seed_mesh, in_specs=spec, out_specs=spec, check_vma=False)

            def put(tree):
                return jax.device_put(tree, NamedSharding(seed_mesh, spec))

        numbers = put(jnp.array(seeds, jnp.int32))
        carry = {seeds: put(stack(list(states.values())))}
        inputs = {seeds: [put(stack(each)) for each in zip(*batches.values(), strict=True)]}
        call = jax.jit(together, donate_argnums=1)
        calls = {seeds: partial(call, numbers)}
    else:
        carry, inputs = jax.device_put((states, batches))
        call = jax.jit(step, donate_argnums=1)
        calls = {seed: partial(call, np.int32(seed)) for seed in seeds}
    taken = 0

    def train(steps):
        for name in carry:
            for number in range(taken, taken + steps):
                carry[name] = calls[name](carry[name], inputs[name][number % BATCHES])
            jax.block_until_ready(carry[name])
        return taken + steps

    taken = train(1)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip().isdigit():
            taken = train(int(line))
        else:
            found = {}
            for name, state in jax.device_get(carry).items():
                if isinstance(name, int):
                    found |= {f"{name}/{path}": leaf for path, leaf in named_leaves(state.params)}
                else:
                    leaves = named_leaves(state.params)
                    found |= {f"{seed}/{path}": leaf[k] for k, seed in enumerate(name) for path, leaf in leaves}
            np.savez(line.strip(), **found)
        print("done", time.process_time(), flush=True)


def start(way: str, width: int) -> list[subprocess.Popen]:
    """The processes of a way, which say when they are ready."""
    cores, found = sorted(os.sched_getaffinity(0)), []
    for place, seeds in enumerate(WAYS[way]):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={2 if way == 'shard_map' else 1}"
        if way == "pinned":
            half = len(cores) // 2
            os.sched_setaffinity(0, cores[place * half : (place + 1) * half])
        command = [sys.executable, __file__, "--worker", way, "--width", str(width), "--seeds", *map(str, seeds)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        found.append(subprocess.Popen(command, env=environment, **pipes))
        os.sched_setaffinity(0, cores)
    return found


def wait_until_ready(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        while (line := process.stdout.readline()) and line.strip() != "ready":
            pass


def ask(processes: list[subprocess.Popen], lines: list[str]) -> tuple[float, float]:
    """Give each process its line at once. Returns the seconds until all have done it, and their CPU time so far."""
    before = time.perf_counter()
    for process, line in zip(processes, lines, strict=True):
        process.stdin.write(line + "\n")
        process.stdin.flush()
    used = 0.0
    for process in processes:
        word, *seconds = process.stdout.readline().split() or [""]
        if word != "done":
            raise RuntimeError("a process has ended; its error stands above")
        used += float(seconds[0])
    return time.perf_counter() - before, used


def compare(ways: dict[str, list[subprocess.Popen]], folder: str) -> dict[str, tuple[bool, float]]:
    """way -> (whether all parameters equal those in turn bit for bit, largest difference over the largest value)"""
    params = {}
    for way, processes in ways.items():
        files = [f"{folder}/{way.replace(' ', '_')}-{place}.npz" for place in range(len(processes))]
        ask(processes, files)
        params[way] = {name: array for file in files for name, array in np.load(file).items()}
    alone, found = params["in turn"], {}
    for way, mine in params.items():
        assert mine.keys() == alone.keys()
        largest = max(np.abs(array).max() for array in alone.values())
        difference = max(np.abs(mine[name].astype(np.float64) - array).max() for name, array in alone.items())
        found[way] = all(np.array_equal(mine[name], array) for name, array in alone.items()), difference / largest
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 24])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=4, help="of each seed in a round")
    parser.add_argument("--output", type=Path, default=ROOT / "experiments/results/seeds_in_one_program.csv")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seeds", type=int, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, tuple(arguments.seeds), arguments.width)
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    rows = []
    for width in arguments.widths:
        ways = {"in turn": start("in turn", width)}
        wait_until_ready(ways["in turn"])  # the compilation cache then has the program of three ways
        ways |= {way: start(way, width) for way in WAYS if way not in ways}
        for way, processes in ways.items():
            if way != "in turn":
                wait_until_ready(processes)
        print(f"width {width}: compiled", flush=True)
        lines = [str(arguments.steps)]
        times = {way: [] for way in WAYS}
        used = {way: -ask(processes, lines * len(processes))[1] for way, processes in ways.items()}
        last = {}
        for _ in range(arguments.rounds):
            for way, processes in ways.items():
                seconds, last[way] = ask(processes, lines * len(processes))
                times[way].append(seconds)
        used = {way: (used[way] + last[way]) / (arguments.rounds * arguments.steps) for way in ways}
        with tempfile.TemporaryDirectory() as folder:
            compared = compare(ways, folder)
        for processes in ways.values():
            for process in processes:
                process.stdin.close()
                process.wait()
        for way, mine in times.items():
            ratios = sorted(one / other for one, other in zip(mine, times["in turn"], strict=True))
            rows.append(
                {
                    "network": f"unet, width {width}",
                    "way": way,
                    "step_of_both_s": f"{statistics.median(mine) / arguments.steps:.3f}",
                    "ratio": f"{statistics.median(ratios):.2f}",
                    "quartiles": f"{ratios[len(ratios) // 4]:.2f}-{ratios[-1 - len(ratios) // 4]:.2f}",
                    "cpu_s": f"{used[way]:.3f}",
                    "equal_bits": "yes" if compared[way][0] else "no",
                    "relative_difference": f"{compared[way][1]:.1e}",
                    "steps": 1 + (1 + arguments.rounds) * arguments.steps,
                    "date": datetime.date.today().isoformat(),
                    "commit": commit.stdout.strip(),
                    "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
                }
            )
            print("  ".join(f"{key} {value}" for key, value in list(rows[-1].items())[:9]), flush=True)
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()

"""Time of a training step of each network against the same network in PyTorch, both on this machine, in one run.

  PYTHONPATH=. python experiments/benchmarks/train_step.py [--models unet,segnet] [--size 128] [--batch 2]

A step is forward, cross-entropy, backward and an SGD update with momentum, in float32. PyTorch runs eagerly with
channels_last. The two alternate, and the ratio is that of the fastest of each one's steps, since what else runs on
a machine can only slow a step down. The networks are those of `pytorch_networks.py`; they need the references that
`./launch.sh test` installs. Writes its rows into experiments/results/train_step.csv, where other networks' rows stay.
"""

import argparse
import csv
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.facts import RESULTS, facts, write_rows
from experiments.benchmarks.pytorch_networks import PAIRS, Masks
from segjax.models import build_model
from segjax.models.output import MaskOutput, Output
from tests.references.pytorch import torch

CLASSES = 11


def our_step(name, fields, image, label):
    model = build_model(name, num_classes=CLASSES, **fields)
    optimizer = optax.sgd(0.01, momentum=0.9)
    options = {"xla_backend_optimization_level": 0}
    variables = jax.jit(model.init, compiler_options=options)(jax.random.key(0), image)
    model_state = {key: value for key, value in variables.items() if key != "params"}

    def loss_of(params, model_state, key):
        output, moved = model.apply(
            {"params": params, **model_state}, image, train=True, mutable=list(model_state), rngs={"dropout": key}
        )
        if isinstance(output, MaskOutput):
            return sum(jnp.square(part).mean() for part in (*output.class_logits, *output.mask_logits)), moved
        parts = (output.logits, *output.auxiliary) if isinstance(output, Output) else (output,)
        losses = [optax.softmax_cross_entropy_with_integer_labels(part, label).mean() for part in parts]
        return sum(losses), moved

    @jax.jit
    def step(params, model_state, state, key):
        (loss, model_state), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, model_state, key)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), model_state, state, loss

    carry = [variables["params"], model_state, optimizer.init(variables["params"])]

    def run(index):
        *carry[:], loss = step(*carry, jax.random.key(index))
        return float(loss)

    return run, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def their_step(module, image, label):
    module = module.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)
    image = np.asarray(image).reshape(-1, *image.shape[-3:])
    image = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    image = image.contiguous(memory_format=torch.channels_last)
    label = torch.from_numpy(np.array(label).reshape(-1, *label.shape[-2:])).long()

    def run(index):
        output = module(image)
        if isinstance(output, Masks):
            loss = sum(part.square().mean() for part in output)
        else:
            parts = output.values() if isinstance(output, dict) else [output]
            loss = sum(torch.nn.functional.cross_entropy(part, label) for part in parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run, sum(parameter.numel() for parameter in module.parameters())


def fastest(runs, rounds, seconds):
    """The shortest time of each of `runs`, which alternate for `rounds` rounds or this long."""
    times = [[] for _ in runs]
    for run in runs:
        run(0)
    start = time.perf_counter()
    for index in range(1, rounds + 1):
        for run, mine in zip(runs, times, strict=True):
            began = time.perf_counter()
            run(index)
            mine.append(time.perf_counter() - began)
        if time.perf_counter() - start > seconds and index >= 3:
            break
    return [min(mine) for mine in times]


def earlier_rows(path):
    """Those that are in the file already, by network."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help="rows to time, by their first words; default: all")
    parser.add_argument("--size", type=int, default=128, help="height and width of the images, pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS / "train_step.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)

    rng = np.random.default_rng(0)
    machine = facts()
    wanted = tuple(name for name in arguments.models.split(",") if name) or ("",)
    rows = []
    for row, (name, fields, reference, more, frames, _) in PAIRS.items():
        if not row.startswith(wanted):
            continue
        side = fields.get("window", arguments.size + more)
        shape = (arguments.batch, frames) if frames else (arguments.batch,)
        image = jnp.asarray(rng.standard_normal((*shape, side, side, 3)), jnp.float32)
        size = (1, 1) if "window" in fields else (side, side)
        label = jnp.asarray(rng.integers(0, CLASSES, (*shape, *size)), jnp.int32)
        ours, our_count = our_step(name, fields, image, label)
        theirs, their_count = their_step(reference(CLASSES), image, label)
        seconds = fastest([ours, theirs], arguments.rounds, 60)
        rows.append(
            {
                "network": row,
                "input": "x".join(map(str, (*shape, side, side))),
                "segjax_s": f"{seconds[0]:.3f}",
                "pytorch_s": f"{seconds[1]:.3f}",
                "ratio": f"{seconds[0] / seconds[1]:.2f}",
                "params": our_count,
                "pytorch_params": their_count,
                **machine,
                "torch": torch.__version__,
            }
        )
        print("  ".join(f"{key} {value}" for key, value in list(rows[-1].items())[:7]), flush=True)
        jax.clear_caches()
    write_rows(
        arguments.output, list((earlier_rows(arguments.output) | {row["network"]: row for row in rows}).values())
    )


if __name__ == "__main__":
    main()

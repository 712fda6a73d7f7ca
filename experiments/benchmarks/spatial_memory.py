"""Memory of one device against the devices over which the rows of an image are split, read off the compiled program.

  PYTHONPATH=. XLA_FLAGS=--xla_force_host_platform_device_count=8 python experiments/benchmarks/spatial_memory.py

One image of 1024 x 1024 pixels in a training step (SGD with momentum) and one of 4096 x 4096 in whole-image inference;
nothing is executed. The networks are narrow, so that their numbers can be compared with runs on a small machine. Writes
experiments/results/spatial_memory.csv and .png: arguments, results and temporary buffers of one device, in MiB, and how
many rows, arrays and bytes devices exchange (collective-permute) or gather.
"""

from collections import defaultdict

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from experiments.benchmarks.facts import RESULTS, facts, write_rows
from segjax.core import program, sharding
from segjax.core.config import default_config
from segjax.models import build_model
from segjax.training import losses, optim
from segjax.training.state import create_state
from segjax.training.step import jit_train_step, make_train_step

CLASSES = 5
MODELS = {
    "unet": dict(width=4, depth=4),
    "deeplab_v3plus": dict(backbone="resnet18", width=8, features=16, skip_features=8),
    "segformer": dict(width=4, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), reductions=(16, 8, 4, 2), channels=16),
}
DEVICES = (1, 2, 4, 8)
SIDES = {"training step": 1024, "inference": 4096}


def shapes_of(mesh, side):
    batch = {
        "image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((1, side, side), jnp.uint8),
    }
    lies = sharding.batch_shardings(mesh, batch)
    return {name: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=lies[name]) for name, s in batch.items()}


def variables_of(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))


def training_step(model, mesh):
    optimizer = default_config().optimizer
    optimizer.name = "sgd"
    direction = optim.build_direction(optimizer)
    loss = losses.build_loss({"cross_entropy": 1.0}, num_classes=CLASSES)
    state = jax.eval_shape(lambda variables: create_state(variables, direction, ema=False), variables_of(model))
    factors = optim.rate_factors(state.params, ())
    schedule = optim.build_schedule("constant", 1e-2, 10)
    step = make_train_step(model, loss, losses.normaliser, direction, schedule, factors, mesh, seed=0)
    return jit_train_step(step, sharding.state_sharding(mesh, state), mesh).lower(
        state, shapes_of(mesh, SIDES["training step"])
    )


def inference(model, mesh):
    def predict(variables, image):
        return jax.nn.softmax(model.apply(variables, image, train=False)).argmax(-1).astype(jnp.uint8)

    program = jax.jit(
        sharding.for_mesh(predict, mesh),
        in_shardings=(sharding.replicated(mesh), None),
        out_shardings=sharding.map_sharding(mesh),
    )
    return program.lower(variables_of(model), shapes_of(mesh, SIDES["inference"])["image"])


def main():
    machine = facts()  # before the run, during which a commit may change
    rows, figure = [], plt.figure(figsize=(7.5, 3.5), layout="constrained")
    panels = dict(zip(SIDES, figure.subplots(1, 2), strict=True))
    for name, fields in MODELS.items():
        model = build_model(name, num_classes=CLASSES, **fields)
        for kind, lower in (("training step", training_step), ("inference", inference)):
            found = []
            for devices in DEVICES:
                compiled = lower(model, sharding.make_mesh(1, 1, devices)).compile()
                total = program.memory(compiled).total
                exchanged = defaultdict(lambda: [0.0])
                for each in program.collectives(compiled.as_text()):
                    exchanged[each.kind].append(each.size / 2**10)
                found.append(total / 2**20)
                row = {
                    "model": name,
                    "program": f"{kind}, {SIDES[kind]}x{SIDES[kind]}",
                    "devices": devices,
                    "MiB_a_device": f"{found[-1]:.1f}",
                    "times_of_one": f"{found[-1] / found[0]:.3f}",
                    "permutes": len(exchanged["collective-permute"]) - 1,
                    "largest_permute_KiB": f"{max(exchanged['collective-permute']):.1f}",
                    "largest_gather_KiB": f"{max(exchanged['all-gather'] + exchanged['all-to-all']):.1f}",
                }
                rows.append(row | machine)
                print(row, flush=True)
                write_rows(RESULTS / "spatial_memory.csv", rows)
            panels[kind].plot(DEVICES, found, "o-", label=name)
    for kind, axes in panels.items():
        axes.set(xscale="log", yscale="log", title=f"{kind}, {SIDES[kind]} x {SIDES[kind]}", xlabel="devices")
        axes.set_xticks(DEVICES, [str(n) for n in DEVICES])
        axes.set_ylabel("MiB on each")
    panels["inference"].legend()
    figure.savefig(RESULTS / "spatial_memory.png", dpi=120)


if __name__ == "__main__":
    main()

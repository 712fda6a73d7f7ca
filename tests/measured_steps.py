"""Run five training steps and print, a JSON line each, what was forecast and what they took: run by test_forecast.py in
a process of its own, whose peak of memory Linux can be told to forget (/proc/self/clear_refs)."""

import ctypes
import json
import re
import sys
from pathlib import Path

import jax

from segjax import build, build_forecast
from segjax.core import program, sharding
from segjax.core.config import default_config, finish
from segjax.core.validation import validate

UNET = {"name": "unet", "padding": "same", "norm": "batch", "width": 16, "depth": 2, "dropout": 0.0}
ATTENTION = {"name": "attention_unet", "width": 12, "depth": 2}
CONFIGS = {
    "unet, sgd": (UNET, 1, {"optimizer.name": "sgd", "data.size": (128, 128)}),
    "unet, adamw, average": (
        {**UNET, "width": 24},
        1,
        {"optimizer.name": "adamw", "training.ema_decay": 0.99, "data.size": (96, 128)},
    ),
    "unet, muon, microbatches": (
        {**UNET, "depth": 1},
        1,
        {"optimizer.name": "muon", "training.accumulate": 2, "data.batch_size": 12, "data.size": (128, 128)},
    ),
    "attention_unet, adam": (ATTENTION, 1, {"optimizer.name": "adam", "data.size": (128, 128)}),
    "unet, adamw, split": (
        {**UNET, "width": 32},
        2,
        {"optimizer.name": "adamw", "data.batch_size": 8, "data.size": (128, 96)},
    ),
}


def config_of(model, changes):
    config = default_config()
    config.data.batch_size = 8
    config.model.update(model)
    config.update_from_flattened_dict(changes)
    validate(finish(config))
    return config


def resident(field):
    """Bytes of VmRSS or VmHWM, the resident memory of this process and its peak."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1))


def on_first_device(tree):
    device = jax.devices()[0]
    return sum(s.data.nbytes for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards if s.device == device)


def measure(config, devices):
    mesh = sharding.make_mesh(1, devices)
    predicted = build_forecast.forecast(config, mesh)
    dataset = build.dataset_of_shapes(config)
    module = build.model(config, dataset.info)
    init, _, _ = build.state(config, module, mesh)
    compiled = build.lower_train_step(config, mesh).compile()  # optimised, as a training does it
    state = init()
    batch = sharding.put_batch(mesh, build.training_batches(config, dataset)[0])
    jax.block_until_ready((state, batch))
    measured = {
        "parameters": on_first_device(state.params),
        "optimizer": on_first_device(state.opt_state),
        "average of the parameters": on_first_device(state.ema),
        "batch": on_first_device(batch),
    }
    # Not the first step, in which threads and the libraries below XLA set themselves up.
    state, _ = jax.block_until_ready(compiled(state, batch))
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what compiling left free would be used instead of new memory
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    jax.block_until_ready(compiled(state, batch))
    return {
        "held": predicted.held,
        "measured": measured,
        "temporary": devices * program.memory(compiled).temporary,
        "forecast temporary": devices * predicted.temporary,
        "growth": resident("VmHWM") - before,
    }


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    for name in sys.argv[1:] or CONFIGS:
        model, devices, changes = CONFIGS[name]
        full = {"parallel.data": 1, "parallel.fsdp": devices, **changes}
        print(json.dumps({"name": name, **measure(config_of(model, full), devices)}), flush=True)

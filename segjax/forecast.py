"""What a training step will need on devices that need not be there: memory, FLOPs, communication, by compiling it.

  python -m segjax.forecast --config experiments/camvid/unet.py:full --devices 8 --device_kind h100
  python -m segjax.forecast --config FILE --devices 4 --memory_gb 24 --config.data.batch_size=64 --output forecast.json

The step is compiled for as many simulated CPU devices and not executed, so the figures are those of the CPU's program;
another backend fuses otherwise, has other forms of some layers, and needs workspace of its own. Files of a data set
are only read for what they alone know: the classes of a folder, the size of images that are not resized or cropped.
"""

import os
import re

import jax
from absl import flags
from ml_collections import config_flags
from rich.console import Console

from segjax import build_forecast
from segjax.core import sharding
from segjax.core.config import nearest
from segjax.core.logger import write_json
from segjax.core.main import run
from segjax.core.validation import validate
from segjax.studies import forecast as forecast_lib


def main() -> None:
    """From flags to the tables."""
    config, kind = CONFIG.value, DEVICE_KIND.value
    validate(config)
    if kind and kind not in forecast_lib.DEVICE_KINDS:
        raise ValueError(f"--device_kind {kind!r} is unknown; {nearest(kind, forecast_lib.DEVICE_KINDS)}")
    simulate_devices(DEVICES.value)
    mesh = sharding.make_mesh(**config.parallel)
    found = build_forecast.forecast(config, mesh)
    console = Console(width=100, highlight=False)
    console.print(forecast_lib.tables(found, kind))
    console.print(NOTE, soft_wrap=True)

    gib = MEMORY.value or (forecast_lib.usable_memory(kind) if kind else 0)
    facts = found.to_dict()
    if gib:
        limit, tried = int(gib * 2**30), []
        if found.total > limit:
            console.print("\nit will not fit; compiling what might ...")
            tried = list(build_forecast.alternatives(config, mesh, found, limit))
        for line in forecast_lib.advice(found, limit, tried):
            console.print(line, soft_wrap=True)
        fitting = {change: other.to_dict() for change, other in tried}
        facts |= {"limit": limit, "fits": found.total <= limit, "alternatives": fitting}
    if OUTPUT.value:
        write_json(OUTPUT.value, facts)


def simulate_devices(count: int) -> None:
    """Make this process one of so many CPU devices, before JAX looks for devices."""
    options = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = re.sub(r"--xla_force_host_platform_device_count=\d+", "", options)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


NOTE = """
These are figures of the program for CPUs, compiled and not executed; on another device temporary memory, and what XLA
counts as operations, differ. Evaluation is not among them, nor what the framework needs. What is kept for the gradient
was counted before XLA, which may keep less; it is part of the temporary memory. Of a GPU's memory JAX takes 75 %, or
what XLA_CLIENT_MEM_FRACTION says; that is what a step must fit in here."""

if __name__ == "__main__":
    # Here, so that several mains can be imported into one process.
    CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file; FILE:VARIANT picks a variant of it.")
    DEVICES = flags.DEFINE_integer("devices", 1, "How many devices to compile for.", lower_bound=1)
    DEVICE_KIND = flags.DEFINE_string(
        "device_kind", "", f"Of the devices, to compare with: {', '.join(forecast_lib.DEVICE_KINDS)}."
    )
    MEMORY = flags.DEFINE_float(
        "memory_gb", 0.0, "GiB of one device that JAX may take, in place of its kind's.", lower_bound=0.0
    )
    OUTPUT = flags.DEFINE_string("output", "", "JSON file for all figures.")
    run(main, required=("config",))

"""How fast a config trains and infers on this machine, and beside the same network in PyTorch.

  python -m segjax.benchmark --config experiments/camvid/unet.py:half
  python -m segjax.benchmark --config FILE --mode train --against pytorch --output speed.json --profile runs/profile

Prints, and writes as JSON: the time of a step (median, minimum, quartiles), images a second, compile time cold and with
JAX's persistent cache, FLOPs and what fraction of the machine's matrix-product rate they are, measured in the same run,
the share of time that the training loop waits for data, and memory. The timed steps take one batch, the config's first,
which lies on the device; those with the input pipeline are the training loop's own. The peak of memory is the device's,
on a CPU the process's, from its start on: with one --mode at a time each has its own.

With --against pytorch both have cross-entropy and SGD with momentum (what of the config that changes is said), float32
or bfloat16 as config.model.dtype says, PyTorch in channels_last, eager and by torch.compile, and all take turns.
"""

import datetime
import os
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from segjax import build_benchmark
from segjax.core.logger import write_json
from segjax.core.main import run
from segjax.core.validation import validate
from segjax.studies import benchmark
from segjax.training.checkpoint import versions
from segjax.training.workdir import environment

NETWORKS = Path(__file__).resolve().parents[1] / "experiments/benchmarks/pytorch_networks.py"


def main() -> None:
    """From flags to the table and the JSON."""
    config, modes = CONFIG.value, MODE.value
    validate(config)
    if AGAINST.value:
        # So that PyTorch finds memory on a GPU; JAX reads it when it first asks for devices.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if jax.process_count() > 1:
        raise ValueError(f"segjax.benchmark measures one process; received {jax.process_count()}")
    networks = Path(PYTORCH_NETWORKS.value).expanduser() if AGAINST.value else None
    report = build_benchmark.measure(
        config,
        modes,
        steps=STEPS.value,
        warmup=WARMUP.value,
        block=BLOCK.value,
        networks=networks,
        torch_compile=TORCH_COMPILE.value,
        profile_dir=Path(PROFILE.value).expanduser() if PROFILE.value else None,
        say=lambda line: print(line, flush=True),
    )
    report |= environment(report["devices"])
    report |= {"date": datetime.date.today().isoformat(), "versions": versions()}
    print("\n" + benchmark.table(report))
    if OUTPUT.value:
        write_json(Path(OUTPUT.value).expanduser(), report)
        print(f"written to {OUTPUT.value}")


if __name__ == "__main__":
    # Here, so that several mains can be imported into one process.
    CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file; FILE:VARIANT picks a variant of it.")
    MODE = flags.DEFINE_list("mode", ["train", "infer"], "What is measured: train, infer or both.")
    STEPS = flags.DEFINE_integer("steps", 20, "Timed steps of each.", lower_bound=1)
    WARMUP = flags.DEFINE_integer("warmup", 3, "Steps of each before these.", lower_bound=1)
    BLOCK = flags.DEFINE_integer("block", 1, "Steps between waits for the device; more for steps of few ms.", 1)
    OUTPUT = flags.DEFINE_string("output", "", "The JSON's file; '' writes none.")
    PROFILE = flags.DEFINE_string("profile", "", "Folder for JAX's profile of some steps, whose table is printed.")
    AGAINST = flags.DEFINE_enum("against", None, ["pytorch"], "Also time the same network there, in turns.")
    PYTORCH_NETWORKS = flags.DEFINE_string(
        "pytorch_networks", str(NETWORKS), "File with get_network(model_config, num_classes) -> torch.nn.Module."
    )
    TORCH_COMPILE = flags.DEFINE_bool("torch_compile", True, "Also by torch.compile, where that works.")
    run(main, required=("config",))

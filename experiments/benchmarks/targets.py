"""U-Net, SegNet, DeepLab v3+ and SegFormer-B0 against PyTorch, training and inference, by one command on any machine.

  PYTHONPATH=. python experiments/benchmarks/targets.py [--networks unet,segnet] [--steps 100] [--profile runs/profile]

On a CPU in float32, 2 images of 128x128 (129x129 for v3+), by one device of all cores, which is the target, and by two
simulated ones of which each has an image; on a GPU in bfloat16, 16 of 512x512. Each network is a process of
`segjax.benchmark --against pytorch`, in which ours, PyTorch eager and torch.compile take turns. Writes its
rows into experiments/results/benchmark.csv, where the rows of other devices, networks and modes stay; with --profile a
second process says where the time goes on the device, and keeps the profiles, which TensorBoard and Perfetto read. On a
GPU, PyTorch must be a build for it (CONTRIBUTING.md says how to install one). In bfloat16 it works by autocast, where
layer norms are float32, ours bfloat16, and logits bfloat16 when they are resized, ours float32.
"""

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.benchmarks.facts import RESULTS, ROOT, write_rows
from experiments.benchmarks.target_configs import NETWORKS

CONFIGS = Path(__file__).with_name("target_configs.py")
KEY = ("network", "mode", "dtype", "device", "devices")
KEPT_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",
}
"""What launch.sh sets on a CPU, for both libraries here. On one machine half of SegNet's steps took twice their time
with it, where PyTorch took turns in the same process; --no-kept_memory leaves it out."""

NAMED_KERNELS = "--xla_gpu_enable_command_buffer="
"""Without it XLA for GPUs records kernels into graphs, and a profile does not say which operation a kernel is of."""

FACTS = """import json, jax
from experiments.benchmarks.facts import facts
print(json.dumps([jax.default_backend(), facts()]))"""
"""Run by a process of its own, since one that asks for the GPU keeps it."""

SIDES = {"segjax": "segjax", "pytorch eager": "eager", "torch.compile": "compile"}


def rows_of(network, report, machine):
    """One a mode; what is not known stays blank."""
    rows = []
    for mode, found in report["modes"].items():
        row = {"network": network, "mode": mode, "dtype": report["dtype"], "device": report["device_kind"]}
        row["devices"] = str(report["devices"])
        row["input"] = "x".join(map(str, report["batch"][:3]))
        for name, short in SIDES.items():
            step = found["sides"].get(name, {}).get("step", {})
            for key in ("median", "min"):
                row[f"{short}_{key}_ms"] = f"{1e3 * step[key]:.1f}" if step else ""
        for name, short in list(SIDES.items())[1:]:
            ratio = found["sides"].get(name, {}).get("ratios", {})
            for key in ("median", "min"):
                row[f"ratio_{short}_{key}"] = f"{ratio[key]:.2f}" if ratio else ""
        row["fraction_of_matrix_rate"] = f"{found['fraction']:.3f}"
        row["matrix_rate_GFLOPs"] = f"{report['matrix_rate'] / 1e9:.0f}"
        row["params"] = report["params"]
        row["pytorch_params"] = found["sides"].get("pytorch eager", {}).get("params", "")
        rows.append({**row, **machine, "torch": report["pytorch"]["version"]})
    return rows


def earlier_rows(path):
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {tuple(row[key] for key in KEY): row for row in csv.DictReader(file)}


def measured(network, devices, arguments, kind):
    """The report of one network, or None where its process failed and has said why."""
    flags = {} if kind else {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    flags |= KEPT_MEMORY if arguments.kept_memory and not kind else {}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        command = [sys.executable, "-m", "segjax.benchmark", f"--config={CONFIGS}:{network}{kind}"]
        command += [f"--mode={arguments.mode}", f"--warmup={arguments.warmup}", f"--config.parallel.data={devices}"]
        timing = ["--against=pytorch", f"--steps={arguments.steps}", f"--block={arguments.block}", f"--output={output}"]
        timing += [] if arguments.torch_compile else ["--notorch_compile"]
        subprocess.run(command + timing, cwd=ROOT, check=False, env=os.environ | flags)
        if arguments.profile:
            profile = [f"--profile={arguments.profile}/{network}", "--steps=5"]
            flags |= {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {NAMED_KERNELS}"} if kind else {}
            subprocess.run(command + profile, cwd=ROOT, check=False, env=os.environ | flags)
        return json.loads(output.read_text()) if output.is_file() else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--mode", default="train,infer")
    parser.add_argument("--steps", type=int, default=0, help="of each side; 0: 20, on a GPU 100")
    parser.add_argument("--warmup", type=int, default=0, help="steps before; 0: 3, on a GPU 10")
    parser.add_argument("--block", type=int, default=0, help="steps between waits for the device; 0: 1, on a GPU 5")
    parser.add_argument("--torch_compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--kept_memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with launch.sh's settings of glibc's memory",
    )
    parser.add_argument("--profile", default="", help="folder for JAX's profiles")
    parser.add_argument("--devices", default="", help="numbers of simulated devices of a CPU; default: 1,2")
    parser.add_argument("--output", type=Path, default=RESULTS / "benchmark.csv")
    arguments = parser.parse_args()
    found = subprocess.run([sys.executable, "-c", FACTS], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    platform, machine = json.loads(found.stdout.splitlines()[-1])
    gpu = platform == "gpu"
    steps, warmup, block = (100, 10, 5) if gpu else (20, 3, 1)
    arguments.steps, arguments.warmup = arguments.steps or steps, arguments.warmup or warmup
    arguments.block = arguments.block or block
    failed, rows = [], {}
    counts = [int(count) for count in ("1" if gpu else arguments.devices or "1,2").split(",")]
    for network, devices in itertools.product(arguments.networks.split(","), counts):
        report = measured(network, devices, arguments, "-gpu" if gpu else "")
        if report is None:
            failed.append(f"{network} on {devices}")
            continue
        for row in rows_of(network, report, machine):
            rows[tuple(row[key] for key in KEY)] = row
    if rows:
        write_rows(arguments.output, list((earlier_rows(arguments.output) | rows).values()))
    if failed:
        sys.exit(f"these failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""Train every experiment of experiments/digit_scenes at its one budget, with several seeds, and write the table.

  PYTHONPATH=. python experiments/benchmarks/digit_scenes_table.py --workdir runs/digit_scenes [--seeds 0,1,2]

Each run is `python -m segjax.train` in a process of its own, in WORKDIR/<experiment>-<seed>; one that has finished is
not repeated and one that was cut off goes on, so the command can be given again. What has finished is written to
experiments/results/digit_scenes.csv (a row a run) and digit_scenes.md (a row a model: mean and standard deviation).
Arguments after `--` go to every training, e.g. `-- --config.training.steps=300`; they are kept in the table.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments/digit_scenes"
RESULTS = ROOT / "experiments/results"


def experiments(wanted):
    """Names of the experiments, all of them where none is wanted by name."""
    names = [path.stem for path in sorted(FOLDER.glob("*.py")) if "def get_config" in path.read_text()]
    if unknown := set(wanted) - set(names):
        raise SystemExit(f"unknown experiments {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    return wanted or names


def train(name, seed, workdir, extra):
    """The summary of a run, or None where it failed; its output lies in the workdir."""
    summary = workdir / "summary.json"
    if not summary.is_file():
        workdir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "segjax.train", "--config", str(FOLDER / f"{name}.py")]
        command += ["--workdir", str(workdir), f"--config.seed={seed}", *extra]
        with (workdir / "log.txt").open("a") as log:
            status = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode
        if status or not summary.is_file():
            print(f"{name}, seed {seed}: failed with status {status}; see {workdir / 'log.txt'}", flush=True)
            return None
    return json.loads(summary.read_text())


def row(name, seed, summary, extra):
    hardware = f"{summary['devices']} {summary['device_kind']} devices, {os.cpu_count()} cores, {platform.machine()}"
    return {
        "experiment": name,
        "seed": seed,
        "mIoU": f"{100 * summary['mIoU']:.2f}",
        "pixel_accuracy": f"{100 * summary['pixel_accuracy']:.2f}",
        "params": summary["params"],
        "steps": summary["step"],
        "minutes": f"{summary['seconds'] / 60:.1f}",
        "images_per_second": f"{summary['images_per_second']:.1f}",
        "commit": summary["git_commit"][:7] + ("-dirty" if summary["git_commit"].endswith("dirty") else ""),
        "hardware": hardware,
        "changed": " ".join(extra),
    }


def table(rows):
    """Markdown: a line a model, the best first."""
    lines = ["| experiment | val mIoU, % | seeds | parameters | minutes a run |", "|---|---|---|---|---|"]
    groups = {}
    for each in rows:
        groups.setdefault(each["experiment"], []).append(each)

    def scores(name):
        return [float(each["mIoU"]) for each in groups[name]]

    for name in sorted(groups, key=lambda name: -statistics.mean(scores(name))):
        mine = groups[name]
        spread = f" ± {statistics.stdev(scores(name)):.2f}" if len(mine) > 1 else ""
        minutes = statistics.mean(float(each["minutes"]) for each in mine)
        score = f"{statistics.mean(scores(name)):.2f}{spread}"
        lines.append(f"| {name} | {score} | {len(mine)} | {mine[0]['params']:,} | {minutes:.1f} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--experiments", default="", help="names separated by commas; default: all")
    parser.add_argument("extra", nargs="*", help="after --: arguments of every training")
    arguments = parser.parse_args()
    rows = []
    for seed in map(int, arguments.seeds.split(",")):
        for name in experiments([name for name in arguments.experiments.split(",") if name]):
            summary = train(name, seed, arguments.workdir.absolute() / f"{name}-{seed}", arguments.extra)
            if summary is None:
                continue
            rows.append(row(name, seed, summary, arguments.extra))
            print("  ".join(map(str, list(rows[-1].values())[:8])), flush=True)
            RESULTS.mkdir(parents=True, exist_ok=True)
            with (RESULTS / "digit_scenes.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            (RESULTS / "digit_scenes.md").write_text(table(rows))


if __name__ == "__main__":
    main()

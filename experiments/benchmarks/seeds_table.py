"""Train experiments of one folder at their one budget, with several seeds, and write the table.

  PYTHONPATH=. python experiments/benchmarks/seeds_table.py experiments/digit_scenes --workdir runs/digit_scenes
  PYTHONPATH=. python experiments/benchmarks/seeds_table.py experiments/digit_clips --workdir runs/digit_clips \\
      --experiments convgru,convgru:single --compare convgru,convgru:single -- --config.init.path=runs/unet

Each run is `python -m segjax.train` in a process of its own, in WORKDIR/<experiment>-<seed>; one that has finished is
not repeated and one that was cut off goes on, so the command can be given again. What has finished is written to
experiments/results/<folder>.csv (a row a run; those of other experiments and seeds stay) and <folder>.md (a row an
experiment: mean and standard deviation; then the difference of those that are compared, with the 95 % interval of
Student's t over the seeds, paired).
Arguments after `--` go to every training, e.g. `-- --config.training.steps=300`; they are kept in the table, of a path
its last part, and not `--config.data.dir`, since where the data lies changes no score.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from segjax.studies.statistics import paired_difference, summarize, verdict

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments/results"
SCORES = {
    "mIoU": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "temporal_consistency": "consistency",
    "J&F": "J&F",
    "PQ": "PQ",
    "AP": "AP",
}
"""Of a run's summary, in percent, where it has them."""


def experiments(folder, wanted):
    """Names of the experiments, each with `:variant` where one is wanted; all without variant where none is wanted."""
    names = [path.stem for path in sorted(folder.glob("*.py")) if "def get_config" in path.read_text()]
    if unknown := {name.split(":")[0] for name in wanted} - set(names):
        raise SystemExit(f"unknown experiments {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    return wanted or names


def train(folder, name, seed, workdir, extra):
    """The summary of a run, or None where it failed; its output lies in the workdir."""
    summary, given = workdir / "summary.json", workdir / "arguments.json"
    if given.is_file() and (earlier := json.loads(given.read_text())) != list(extra):
        raise SystemExit(f"{workdir} was begun with {earlier}; received {list(extra)}: give another --workdir")
    if not summary.is_file():
        workdir.mkdir(parents=True, exist_ok=True)
        given.write_text(json.dumps(list(extra)))
        file, _, variant = name.partition(":")
        command = [
            sys.executable,
            "-m",
            "segjax.train",
            "--config",
            f"{folder / file}.py" + f":{variant}" * bool(variant),
        ]
        command += ["--workdir", str(workdir), f"--config.seed={seed}", *extra]
        with (workdir / "log.txt").open("a") as log:
            status = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode
        if status or not summary.is_file():
            print(f"{name}, seed {seed}: failed with status {status}; see {workdir / 'log.txt'}", flush=True)
            return None
    return json.loads(summary.read_text())


def without_folders(argument):
    """What a table says of an argument: of a path its last part, and of where the data lie nothing."""
    field, _, value = argument.partition("=")
    if field == "--config.data.dir":
        return ""
    return f"{field}={Path(value).name}" if field.endswith(("path", "dir")) else argument


def row(name, seed, summary, extra):
    commit = summary["git_commit"] or ""  # None where the code is no git checkout
    hardware = f"{summary['devices']} {summary['device_kind']} devices, {os.cpu_count()} cores, {platform.machine()}"
    return {
        "experiment": name,
        "seed": seed,
        **{score: f"{100 * summary[score]:.2f}" for score in SCORES if score in summary},
        "params": summary["params"],
        "steps": summary["step"],
        "minutes": f"{summary['seconds'] / 60:.1f}",
        "images_per_second": f"{summary['images_per_second']:.1f}",
        "commit": commit[:7] + ("-dirty" if commit.endswith("dirty") else ""),
        "hardware": hardware,
        "changed": " ".join(map(without_folders, extra)).strip(),
    }


def grouped(rows):
    """{experiment: its rows, by seed}"""
    groups = {}
    for each in sorted(rows, key=lambda row: row["seed"]):
        groups.setdefault(each["experiment"], []).append(each)
    return groups


def earlier_rows(path):
    """The rows that are in the file already, by experiment and seed; a score that a row lacks is not in it."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        found = [{**each, "seed": int(each["seed"]), "params": int(each["params"])} for each in csv.DictReader(file)]
    return {
        (each["experiment"], each["seed"]): {name: each[name] for name in each if name not in SCORES or each[name]}
        for each in found
    }


def scores_of(rows):
    """Those that any of the rows has, in the order of SCORES."""
    return [score for score in SCORES if any(score in each for each in rows)]


def mean_and_spread(values):
    found = summarize(values)
    return f"{found.mean:.2f}" + (f" ± {found.std:.2f}" if found.count > 1 else "")


def table(rows):
    """Markdown: a line an experiment, the best first."""
    names = scores_of(rows)
    titles = ["experiment", *(f"val {SCORES[score]}, %" for score in names), "seeds", "parameters", "minutes a run"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    groups = grouped(rows)
    for name in sorted(groups, key=lambda name: -summarize([float(each["mIoU"]) for each in groups[name]]).mean):
        mine = groups[name]
        minutes = summarize([float(each["minutes"]) for each in mine]).mean
        scores = [mean_and_spread([float(each[score]) for each in mine]) if score in mine[0] else "" for score in names]
        lines.append(
            "| " + " | ".join([name, *scores, str(len(mine)), f"{mine[0]['params']:,}", f"{minutes:.1f}"]) + " |"
        )
    return "\n".join(lines) + "\n"


def comparison(rows, pair):
    """A line for each score: the mean difference over the seeds that both have, and its interval."""
    ours, others = ({each["seed"]: each for each in grouped(rows).get(name, [])} for name in pair)
    seeds = sorted(ours.keys() & others.keys())
    if len(seeds) < 2:
        return ""
    lines = [f"\n{pair[0]} minus {pair[1]}, {len(seeds)} seeds, percentage points:\n"]
    for score in scores_of([ours[seeds[0]], others[seeds[0]]]):
        pairs = ([float(each[seed][score]) for seed in seeds] for each in (ours, others))
        found = paired_difference(*pairs)
        doubt = "" if verdict(found.p, (found.low, found.high)) == "significant" else ", not significant"
        lines.append(
            f"- {SCORES[score]}: {found.mean:+.2f}, 95 % interval {found.low:+.2f} to {found.high:+.2f}{doubt}"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="e.g. experiments/digit_scenes")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--name", default="", help="of the table's files in experiments/results; default: the folder's")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--experiments", default="", help="names or name:variant, by commas; default: all names")
    parser.add_argument("--compare", default="", help="two of them, by a comma; again with a blank between pairs")
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    extra = sys.argv[cut + 1 :]
    arguments = parser.parse_args(sys.argv[1:cut])
    folder = arguments.folder.absolute()
    path = RESULTS / f"{arguments.name or folder.name}.csv"
    by_run = earlier_rows(path)
    pairs = [pair.split(",") for pair in arguments.compare.split()]
    for seed in map(int, arguments.seeds.split(",")):
        for name in experiments(folder, [name for name in arguments.experiments.split(",") if name]):
            summary = train(folder, name, seed, arguments.workdir.absolute() / f"{name}-{seed}", extra)
            if summary is None:
                continue
            by_run[name, seed] = row(name, seed, summary, extra)
            print("  ".join(map(str, list(by_run[name, seed].values())[:8])), flush=True)
            rows = list(by_run.values())
            RESULTS.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                names = ["experiment", "seed", *scores_of(rows), *[name for name in rows[0] if name not in SCORES][2:]]
                writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            text = table(rows) + "".join(comparison(rows, pair) for pair in pairs)
            path.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()

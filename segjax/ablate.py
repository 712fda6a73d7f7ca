"""Run an ablation study: every row of a table with every seed, those that are not finished yet.

  python -m segjax.ablate --config experiments/ablations/x.py:small --workdir runs/ablation --plan
  python -m segjax.ablate --config experiments/ablations/x.py:small --workdir runs/ablation
  python -m segjax.ablate ... --rows base,wide --seeds 0,1 --jobs 2 --set training.steps=50
  python -m segjax.ablate ... --slurm partition=gpu,time=4:00:00,gpus_per_node=1

The same command goes on where it was interrupted. Locally there runs one training on each GPU, on a CPU as many as
--jobs says; a run that fails stops no other, and the status is then 1. The workdir holds study.json, of local runs
study-status.json, and for each run <row>/<seed>/, an ordinary workdir of segjax.train with its output in log.txt.
"""

import sys
from pathlib import Path

from absl import flags

from segjax import build_study
from segjax.core.logger import read_json, write_json
from segjax.core.main import run
from segjax.studies import plan, slurm
from segjax.studies import run as run_lib
from segjax.studies.study import Study, load_study, to_dict, with_overrides


def main() -> None:
    """From flags to the runs."""
    study = with_overrides(load_study(CONFIG.value), OVERRIDES.value)
    workdir = Path(WORKDIR.value)
    runs = plan.plan_runs(study, workdir, ROWS.value, list(map(_seed, SEEDS.value)))
    if PLAN.value:
        print(show_plan(runs))
        return
    left = [each for each in runs if plan.state(each) not in ("finished", "at work")]  # for SLURM
    options = None if SLURM.value is None else slurm.parse_options(SLURM.value)
    if DRY_RUN.value:
        if options is None:
            raise ValueError("--dry_run shows what --slurm would submit; give --slurm too, or --plan for local runs")
        print(slurm.script(left, workdir / "slurm", options) if left else "all runs are finished")
        return
    workdir.mkdir(parents=True, exist_ok=True)
    write_study(study, workdir)
    if options is not None:
        ids = slurm.submit(left, workdir / "slurm", options) if left else []
        print(f"submitted {len(ids)} of {len(runs)} runs{': ' + ', '.join(ids) if ids else ''}")
        return

    devices = max(build_study.devices_per_run(each.config) for each in runs)
    slots = run_lib.find_slots(JOBS.value, devices, PIN.value)

    def write_status() -> None:
        write_json(workdir / "study-status.json", {"runs": plan.status(study, workdir)})

    write_status()
    outcome = run_lib.run_all(runs, slots, lambda line: print(line, flush=True), write_status)
    write_status()
    for name, error in outcome.failed.items():
        print(f"\n{name} failed:\n" + "\n".join(f"  {line}" for line in error.splitlines()), file=sys.stderr)
    if outcome.signal:
        print(f"stopped. To go on:\n  {' '.join(['python -m segjax.ablate', *sys.argv[1:]])}", flush=True)
        sys.exit(128 + outcome.signal)
    if outcome.failed:
        print(f"\n{len(outcome.failed)} of {len(runs)} runs failed; the same command tries them again", file=sys.stderr)
        sys.exit(1)
    if outcome.left_out:
        print(f"\nothers are at work at {', '.join(outcome.left_out)}; the rest is finished", file=sys.stderr)
        sys.exit(1)
    print(f"all {len(runs)} runs are finished in {workdir}")


def _seed(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"--seeds must be whole numbers, e.g. 0,1,2; received {text!r}")
    return int(text)


def show_plan(runs: list[plan.Run]) -> str:
    """The runs with their state, time and memory; compiles each row's training step and executes none."""
    costs, failed = {}, {}
    for each in runs:
        if each.row.name not in costs | failed:
            print(f"compiling the step of {each.row.name} ...", file=sys.stderr, flush=True)
            try:
                costs[each.row.name] = build_study.step_cost(each.config)
            except (ValueError, OSError) as error:
                failed[each.row.name] = str(error)
    states = [plan.state(each) for each in runs]
    summaries = {
        (each.row.name, each.seed): read_json(each.workdir / "summary.json")
        for each, state in zip(runs, states, strict=True)
        if state == "finished"
    }
    rate = build_study.matrix_rate(runs[0].config.model.dtype)
    estimates = [plan.estimate(each, costs, summaries, rate) for each in runs]
    table = plan.plan_table(runs, states, costs, estimates)
    return "\n".join([table, *(f"{name} cannot be built: {error}" for name, error in failed.items())])


def write_study(study: Study, workdir: Path) -> None:
    """study.json: the study, the overrides of its base, and the command that ran it last."""
    facts = {"config": CONFIG.value, "overrides": OVERRIDES.value, "command": " ".join(sys.argv)}
    write_json(workdir / "study.json", {**to_dict(study), **facts})


if __name__ == "__main__":
    # Here, so that several mains can be imported into one process.
    CONFIG = flags.DEFINE_string("config", None, "File of a study; FILE:VARIANT picks a variant of it.")
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study; made where it is not there.")
    PLAN = flags.DEFINE_bool("plan", False, "Show the runs, their state and what they will cost, and run nothing.")
    ROWS = flags.DEFINE_list("rows", [], "Names of the rows to run; all where it is left out.")
    SEEDS = flags.DEFINE_list("seeds", [], "Those of the study's seeds to run; all where it is left out.")
    OVERRIDES = flags.DEFINE_multi_string("set", [], "FIELD=VALUE of the base config; can be given several times.")
    JOBS = flags.DEFINE_integer("jobs", 0, "Trainings at once; 0 is one a GPU, or one.", lower_bound=0)
    PIN = flags.DEFINE_bool("pin", False, "On a CPU, give each of --jobs its share of the cores; changes rounding.")
    SLURM = flags.DEFINE_string("slurm", None, "Submit an array of jobs: options of sbatch, OPTION=VALUE,...")
    DRY_RUN = flags.DEFINE_bool("dry_run", False, "With --slurm: print the script and submit nothing.")
    run(main, required=("config", "workdir"))

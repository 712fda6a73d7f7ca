"""What every row of a benchmark's table says beside its numbers, and the table itself."""

import csv
import datetime
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments/results"


def facts() -> dict[str, str]:
    """date, commit ("-dirty" where files differ from it, other than results), hardware and jax's version."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!experiments/results")
    commit = git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "hardware": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}",
        "jax": jax.__version__,
    }


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV with the columns of the first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {path}", flush=True)

"""The folder of a run: its config, and the facts that its summary states."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from segjax.core import config as config_lib
from segjax.core.logger import write_atomically, write_json
from segjax.core.sharding import is_main_process, wait_for_all
from segjax.data.dataset import DatasetInfo


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Whether the run that is there, if any, has the same config.

    A run without a checkpoint has nothing to go on from, so its config may change.

    Raises:
      ValueError: the folder belongs to a run with another config, unless checkpoint.allow_config_change.
    """
    begun = any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*"))
    if (workdir / "config.json").is_file() and begun:
        different = config_lib.differences(config_lib.load_workdir_config(workdir), config)
        if different and not config.checkpoint.allow_config_change:
            raise ValueError(
                f"the run in {workdir} goes on only with the config that it began with; these fields differ:\n"
                + "\n".join(f"  {line}" for line in different)
                + "\nTake another --workdir, or give --config.checkpoint.allow_config_change"
            )
    wait_for_all("the config was compared")


def write_identity(workdir: Path, config: ConfigDict, info: DatasetInfo) -> None:
    """Write config.json and dataset.json, of a run that can begin or go on with them."""
    if is_main_process():
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / "config.json", config_lib.to_json(config))
        write_json(workdir / "dataset.json", info.to_dict())
    wait_for_all("the config was written")


def write_init_report(folder: Path, text: str) -> Path:
    """Write what became of each key of config.init.path, once for all processes. Returns the file's path."""
    path = folder / "init_report.txt"
    if is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    return path


def environment(devices: int) -> dict[str, Any]:
    """What a result depends on besides its config: devices, processes, the code's commit and the command."""
    return {
        "device_kind": jax.devices()[0].device_kind,
        "devices": devices,
        "processes": jax.process_count(),
        "git_commit": git_commit(),
        "command": " ".join(sys.argv),
    }


def git_commit() -> str | None:
    """The commit of the checkout, with `-dirty` where files differ from it; None outside of a checkout."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip()


def peak_memory_bytes() -> int:
    """The most memory held so far: on the fullest device where its runtime counts, else of this process."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    if max(peaks) > 0:
        return max(peaks)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""Two processes of one training, of which one is killed: how the other ends, and how both go on."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from tests.process import ROOT, SMALL, environment, summary


def train_in_two(prepared_dir, workdir):
    """launch.sh and its two processes, in a session of their own."""
    more = [f"--config.data.dir={prepared_dir}", f"--workdir={workdir}", "--config.training.steps=24"]
    return subprocess.Popen(
        ["bash", str(ROOT / "launch.sh"), "--processes", "2", "train", *SMALL, *more],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def session(process):
    """The processes of its session that live, without itself: {pid: JAX_PROCESS_ID}."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) != process.pid and os.getsid(int(folder.name)) == process.pid:
                variables = re.findall(rb"JAX_PROCESS_ID=(\d+)", (folder / "environ").read_bytes())
                if b"segjax.train" in (folder / "cmdline").read_bytes():
                    found[int(folder.name)] = int(variables[0])
        except (OSError, IndexError):
            continue
    return found


def end(process, seconds):
    """(status, output); nothing of it is left behind."""
    try:
        output, _ = process.communicate(timeout=seconds)
        assert session(process) == {}, "no orphans"
        return process.returncode, output
    finally:
        if session(process):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(prepared_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    status, output = end(train_in_two(prepared_dir, workdir), 900)
    assert status == 0, output
    return summary(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_the_other_ends_within_a_minute_and_both_go_on(undisturbed, prepared_dir, tmp_path, victim):
    process = train_in_two(prepared_dir, tmp_path)
    deadline = time.monotonic() + 600
    while not (tmp_path / "checkpoints" / "3").exists():
        assert process.poll() is None and time.monotonic() < deadline, end(process, 1)
        time.sleep(0.01)
    (pid,) = [pid for pid, index in session(process).items() if index == victim]
    os.kill(pid, signal.SIGKILL)
    status, output = end(process, 60)
    assert status == 128 + signal.SIGKILL, "launch.sh gives the highest of 137 and 69"
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"error: process {victim} of 2 is gone ("), output
    assert f"so process {1 - victim} ends too" in last
    step = int(re.search(rf"The newest checkpoint is step (\d+) in {tmp_path}/checkpoints", last)[1])
    assert step >= 3
    assert last.endswith("Start all processes again with the same command to go on")
    assert not (tmp_path / "summary.json").exists(), "it was killed in the middle"

    status, output = end(train_in_two(prepared_dir, tmp_path), 900)
    assert status == 0, output
    assert int(re.search(r"going on from step (\d+) of 24", output)[1]) >= step
    assert summary(tmp_path)["step"] == 24
    for name in ("params_sha256", "mIoU", "processes"):
        assert summary(tmp_path)[name] == undisturbed[name], name

"""What starts a run on several hosts, as text: an sbatch script, a Kubernetes JobSet, the commands for a TPU pod.

  ./launch.sh --slurm nodes=2,gpus_per_node=8,time=24:00:00 train --config FILE --workdir DIR | sbatch
  ./launch.sh --jobset name=unet,image=IMAGE,claim=runs,nodes=2,gpus_per_node=8 train ... | kubectl apply -f -
  ./launch.sh --tpu name=pod,zone=us-central2-b train ... | bash

Only the standard library is imported, so that a login node needs no environment; nothing is submitted. A run that is
told to stop (SIGTERM) saves and ends with status PAUSED here, so that whoever started it knows to start it again.
"""

import difflib
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAUSED = os.EX_TEMPFAIL
"""Status for SEGJAX_PAUSED_STATUS: SIGTERM came, the state is saved, and the same command goes on from there."""
GRACE = 120
"""Seconds between SIGTERM and the end: the step in flight and a checkpoint must fit in."""
RESTARTS = 100

SBATCH = (
    "account chdir comment constraint cpus_per_task exclude exclusive export gpus_per_node gres job_name licenses"
    " mail_type mail_user mem mem_per_cpu nodelist nodes ntasks_per_node output partition qos reservation time"
).split()
JOBSET = "name image claim mount namespace nodes gpus_per_node".split()
TPU = "name zone project".split()


def parse_options(flag: str, text: str, known: Sequence[str], required: Sequence[str] = ()) -> dict[str, str]:
    """ "nodes=2,mail_type=END,FAIL" -> {"nodes": "2", "mail_type": "END,FAIL"}.

    Raises:
      ValueError: no "=", an unknown option, a required one that is not there, or an empty value.
    """
    options = {}
    for part in filter(None, re.split(r",(?=[\w-]+=)", text)):  # a value may hold commas of its own
        name, equals, value = part.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in known or not value or "\n" in value:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near and near[0] != name else ""
            raise ValueError(f"{flag} must be OPTION=VALUE,...; received {part!r}; {hint}there are {', '.join(known)}")
        options[name] = value
    if missing := [name for name in required if name not in options]:
        raise ValueError(f"{flag} must have {', '.join(f'{name}=...' for name in required)}; missing: {missing[0]}")
    for name in ("nodes", "gpus_per_node", "ntasks_per_node"):
        if not options.get(name, "1").isdigit() or (options.get(name) == "0" and name != "gpus_per_node"):
            raise ValueError(f"{flag} {name} must be a whole number; received {options[name]!r}")
    return options


def slurm(options: dict[str, str], command: Sequence[str]) -> str:
    """A script for sbatch. One task is one process with one GPU, since that is what JAX makes of SLURM's variables;
    without gpus_per_node there is one process a node. Checkout, environment and workdir must be on a shared disk.
    """
    gpus = int(options.get("gpus_per_node", 0))
    lines = {
        "job_name": "segjax",
        "nodes": "1",
        "ntasks_per_node": str(max(gpus, 1)),
        "output": "segjax-%j.log",
        "open_mode": "append",
        "signal": f"TERM@{GRACE}",  # without B: it goes to the tasks, not to this script
        **{name: value for name, value in options.items() if (name, value) != ("gpus_per_node", "0")},
    }
    launch = shlex.quote(str(ROOT / "launch.sh"))
    directives = "\n".join(f"#SBATCH --{name.replace('_', '-')}={_directive(value)}" for name, value in lines.items())
    return f"""#!/bin/bash
{directives}
#SBATCH --requeue
set -uo pipefail
cd {shlex.quote(options.get("chdir", os.getcwd()))} || exit
export SEGJAX_PAUSED_STATUS={PAUSED}

{launch} setup || exit # once, before {shlex.quote(command[0])} does so in every task
status=0
[ -z "${{SLURM_CPUS_PER_TASK:-}}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it over
srun {launch} {shlex.join(command)} || status=$?

# The time is nearly over, or another job goes first: the state is saved. (A job that scancel ends is not RUNNING.)
if [ "$status" -eq {PAUSED} ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
  echo "putting job $SLURM_JOB_ID back into the queue; it goes on from the newest checkpoint"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def _directive(value: str) -> str:
    """sbatch takes quotes on its own lines off, and cuts at a space or a # that stands outside of them."""
    return value if re.fullmatch(r"[^\s#'\"\\]+", value) else '"' + value.replace('"', r"\"") + '"'


def jobset(options: dict[str, str], command: Sequence[str]) -> str:
    """A JobSet (jobset.x-k8s.io/v1alpha2, v0.6 or newer) of one pod a node, with one process in it.

    The image's working directory must be a checkout of segjax with its environment (`./launch.sh setup`). `claim` is
    a PersistentVolumeClaim that all nodes can write to; it is mounted at `mount`, and --workdir must lie in there.

    Raises:
      ValueError: a name that is none for Kubernetes, or a --workdir outside of `mount`.
    """
    name, mount, nodes = options["name"], options.get("mount", "/runs"), options.get("nodes", "1")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,39}[a-z0-9])?", name):
        raise ValueError(f"--jobset name must be up to 41 of a-z, 0-9 and -, a letter first; received {name!r}")
    workdir = _flag(command, "workdir")
    if not Path(workdir or mount).is_relative_to(mount) or ".." in Path(workdir or mount).parts:
        raise ValueError(f"--workdir must lie in {mount}, where the claim is mounted in every pod; received {workdir}")
    gpus = int(options.get("gpus_per_node", 0))
    resources = f"\n              resources: {{limits: {{nvidia.com/gpu: {gpus}}}}}" if gpus else ""
    namespace = f"\n  namespace: {json.dumps(options['namespace'])}" if "namespace" in options else ""
    # Kubernetes replaces $(NAME) in a command, and takes $$ for a dollar sign.
    words = [json.dumps(word.replace("$", "$$"), ensure_ascii=False) for word in ("./launch.sh", *command)]
    listed = "".join(f"\n              - {word}" for word in words)
    return f"""apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {json.dumps(name)}{namespace}
spec:
  network: {{enableDNSHostnames: true, publishNotReadyAddresses: true}} # makes the headless service
  failurePolicy: # all pods start again, and go on from the newest checkpoint, unless segjax says that it is in vain
    maxRestarts: {RESTARTS}
    rules:
    - name: errors_of_the_run
      action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: run
    replicas: 1
    template:
      spec:
        completionMode: Indexed
        completions: {nodes}
        parallelism: {nodes}
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {{containerName: segjax, operator: In, values: [1, 2]}}
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: {GRACE}
            containers:
            - name: segjax
              image: {json.dumps(options["image"])}
              command:{listed}
              env:
              - {{name: JAX_COORDINATOR_ADDRESS, value: "{name}-run-0-0.{name}:8476"}}
              - {{name: JAX_NUM_PROCESSES, value: "{nodes}"}}
              - name: JAX_PROCESS_ID
                valueFrom:
                  fieldRef: {{fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
              - {{name: SEGJAX_PAUSED_STATUS, value: "{PAUSED}"}}{resources}
              volumeMounts:
              - {{name: runs, mountPath: {json.dumps(mount)}}}
              - {{name: shm, mountPath: /dev/shm}} # NCCL and the processes that read data share memory
            volumes:
            - name: runs
              persistentVolumeClaim: {{claimName: {json.dumps(options["claim"])}}}
            - name: shm
              emptyDir: {{medium: Memory}}
"""


def tpu(options: dict[str, str], command: Sequence[str]) -> str:
    """A script that copies the checkout to every host of a TPU pod and runs the command on all of them.

    Raises:
      ValueError: a relative --workdir: each host would have one of its own.
    """
    workdir = _flag(command, "workdir")
    if workdir and not workdir.startswith("/"):
        raise ValueError(f"--workdir must be a full path on a disk that all hosts have mounted; received {workdir}")
    place = [f"--{name}={options[name]}" for name in ("zone", "project") if name in options]
    where = shlex.join([*place, "--worker=all"])
    remote = (
        "rm -rf segjax-checkout && mkdir segjax-checkout && tar -xzf segjax.tar.gz -C segjax-checkout"
        f" && cd segjax-checkout && export SEGJAX_VENV=$HOME/segjax-venv SEGJAX_PAUSED_STATUS={PAUSED}"
        f" && ./launch.sh --distributed {shlex.join(command)}"
    )
    name = shlex.quote(options["name"])
    return f"""#!/usr/bin/env bash
# When the TPU was preempted and is there again, run this again: it goes on from the newest checkpoint.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tar -C {shlex.quote(str(ROOT))} --exclude=./.git --exclude=./.venv --exclude=./runs --exclude=./data \\
  -czf "$folder/segjax.tar.gz" .
gcloud compute tpus tpu-vm scp "$folder/segjax.tar.gz" {name}:segjax.tar.gz {where}
gcloud compute tpus tpu-vm ssh {name} {where} \\
  --command={shlex.quote(remote)} </dev/null
"""


def _flag(command: Sequence[str], name: str) -> str | None:
    """The value of --name VALUE or --name=VALUE."""
    for argument, following in zip(command, [*command[1:], None], strict=True):
        if re.fullmatch(f"--?{name}", argument):
            return following
        if found := re.fullmatch(f"--?{name}=(.*)", argument, re.DOTALL):
            return found[1]
    return None


KINDS = {
    "slurm": (slurm, SBATCH, ()),
    "jobset": (jobset, JOBSET, ("name", "image", "claim")),
    "tpu": (tpu, TPU, ("name", "zone")),
}


if __name__ == "__main__":
    kind, text, *command = sys.argv[1:]
    function, known, required = KINDS[kind]
    try:
        sys.stdout.write(function(parse_options(f"--{kind}", text, known, required), command))
    except ValueError as error:
        sys.exit(f"launch.sh: {error}")

"""launch.sh: what it prints for clusters, run here by stand-ins for srun, kubelet and gcloud, and its own processes."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.process import ROOT, SMALL, environment, summary

AWKWARD = ["--config.data.crop_size=(256, 256)", '--a=it\'s "$HOME" $(x) $$ \\ `y` #&;', "--b", "ü\n*", "", "last"]
"""Arguments that a shell, YAML or Kubernetes would change if they were not quoted."""

RECORD = f"""#!/usr/bin/env bash
{sys.executable} -c 'import json, os, sys
with open(sys.argv[1], "w") as file:
    json.dump([os.getcwd(), sys.argv[2:], dict(os.environ)], file)' "$RECORD_AS" "$@"
"""
"""A stand-in for a program: it writes down where, with which arguments and in which environment it was called."""


def launch(*arguments, cwd=ROOT, root=ROOT, status=0, **variables):
    """What launch.sh prints to stdout, or to stderr where it is to fail."""
    done = subprocess.run(
        ["bash", str(root / "launch.sh"), *arguments],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def program(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    return folder / name


def checkout_in(folder):
    """As much of a checkout as printing needs; its launch.sh can be replaced."""
    (folder / "segjax/core").mkdir(parents=True)
    for name in (
        "launch.sh",
        "segjax/__init__.py",
        "segjax/train.py",
        "segjax/core/__init__.py",
        "segjax/core/cluster.py",
    ):
        shutil.copy(ROOT / name, folder / name)
    return folder


def bash(script, *arguments, cwd, **variables):
    check = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert check.returncode == 0, check.stderr
    assert check.stderr == ""
    return subprocess.run(
        ["bash", "-s", *arguments], input=script, cwd=cwd, env=environment(**variables), capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slurm", "node=2", "train"], "did you mean 'nodes'"),
        (["--slurm", "nodes=0", "train"], "nodes must be a whole number; received '0'"),
        (["--slurm", "nodes=2,time", "train"], "nodes must be a whole number; received '2,time'"),
        (["--slurm"], "must be followed by its options"),
        (["--slurm", "nodes=2", "trian"], "unknown command 'trian'"),
        (["--slurm", "nodes=2", "setup"], "runs a command of segjax; received 'setup'"),
        (["--slrum", "nodes=2", "train"], "unknown option '--slrum'"),
        (["--jobset=name=a,image=b", "train"], "missing: claim"),
        (["--jobset=name=A,image=b,claim=c", "train"], "a letter first; received 'A'"),
        (["--jobset=name=a,image=b,claim=c", "train", "--workdir=runs/x"], "--workdir must lie in /runs"),
        (["--jobset=name=a,image=b,claim=c", "train", "--workdir", "/runs/../x"], "--workdir must lie in /runs"),
        (["--tpu=name=a", "train"], "missing: zone"),
        (["--tpu=name=a,zone=b", "train", "--workdir=runs/x"], "must be a full path"),
    ],
)
def test_wrong_options_are_refused_in_words(arguments, message):
    errors = launch(*arguments, status=1)
    assert message in errors
    assert "Traceback" not in errors


# SLURM


def directives(script):
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE))


def test_an_sbatch_script_says_one_process_a_gpu(tmp_path):
    options = "nodes=2,gpus_per_node=8,time=24:00:00,mail_type=END,FAIL,comment=two words,partition=a"
    script = launch("--slurm", options, "train", "--config", "x.py")
    found = directives(script)
    assert (found["nodes"], found["ntasks-per-node"], found["gpus-per-node"]) == ("2", "8", "8")
    assert (found["time"], found["mail-type"], found["partition"]) == ("24:00:00", "END,FAIL", "a")
    assert found["comment"] == '"two words"'
    assert found["signal"] == "TERM@120"
    assert "requeue" in found
    assert script.index("#SBATCH --requeue") < script.index("set -uo"), "sbatch stops reading at the first command"
    assert directives(launch("--slurm=nodes=3", "train"))["ntasks-per-node"] == "1"
    assert "gpus-per-node" not in directives(launch("--slurm=nodes=3,gpus_per_node=0", "train"))


SRUN = """#!/usr/bin/env bash
# What slurmstepd does for two tasks on one node. The status is the highest, as srun's.
tasks=() status=0
for task in 0 1; do
  SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_STEP_NUM_NODES=1 \\
    SLURM_STEP_NODELIST=localhost "$@" &
  tasks+=($!)
done
for task in "${tasks[@]}"; do
  ended=0
  wait "$task" || ended=$?
  if [ "$ended" -gt "$status" ]; then status=$ended; fi
done
exit "$status"
"""


@pytest.mark.parametrize(
    ("status", "state", "requeued"), [(75, "RUNNING", True), (75, "COMPLETING", False), (1, "RUNNING", False)]
)
def test_a_paused_job_goes_back_into_the_queue(tmp_path, status, state, requeued):
    bin, checkout = tmp_path / "bin", checkout_in(tmp_path / "my checkout")
    program(bin, "srun", f"{RECORD}exit {status}\n")
    program(bin, "squeue", f"#!/usr/bin/env bash\necho {state}\n")
    program(bin, "scontrol", RECORD.replace("$RECORD_AS", str(tmp_path / "scontrol.json")))
    script = launch("--slurm", "nodes=1", "train", *AWKWARD, cwd=tmp_path, root=checkout)
    program(checkout, "launch.sh", f'#!/usr/bin/env bash\necho "$@" >>{tmp_path}/set-up\n')
    slurm = dict(PATH=f"{bin}:{os.environ['PATH']}", SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="3")
    done = bash(script, cwd=ROOT, **slurm, RECORD_AS=str(tmp_path / "srun.json"))
    assert done.returncode == status, done.stderr
    where, arguments, variables = json.loads((tmp_path / "srun.json").read_text())
    assert where == str(tmp_path), "where the script was made"
    assert arguments == [str(checkout / "launch.sh"), "train", *AWKWARD]
    assert (tmp_path / "set-up").read_text() == "setup\n"
    assert variables["SEGJAX_PAUSED_STATUS"] == "75" and variables["SRUN_CPUS_PER_TASK"] == "3"
    assert (tmp_path / "scontrol.json").exists() == requeued
    if requeued:
        assert json.loads((tmp_path / "scontrol.json").read_text())[1] == ["requeue", "7"]
        assert "goes on from the newest checkpoint" in done.stdout


@pytest.mark.slow
def test_the_sbatch_script_trains_in_two_tasks(prepared_dir, tmp_path):
    bin, workdir = tmp_path / "bin", tmp_path / "run"
    program(bin, "srun", SRUN)
    script = launch(
        "--slurm=nodes=1,ntasks_per_node=2",
        "train",
        *SMALL,
        f"--config.data.dir={prepared_dir}",
        f"--workdir={workdir}",
    )
    done = bash(script, cwd=tmp_path, PATH=f"{bin}:{os.environ['PATH']}", SLURM_JOB_ID="4321")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (summary(workdir)["processes"], summary(workdir)["step"]) == (2, 12)


# Kubernetes


def kubernetes_expands(word, variables):
    """https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-container: $(NAME), $$."""
    return re.sub(
        r"\$(?:\$|\(([^)]*)\))",
        lambda found: "$" if found[1] is None else variables.get(found[1], found[0]),
        word,
    )


def container_of(text):
    return yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]


def test_a_jobset_has_the_documented_fields():
    """The names of jobset.x-k8s.io/v1alpha2 (api/jobset/v1alpha2/jobset_types.go), of batch/v1 and of v1."""
    options = "--jobset=name=unet,image=registry/segjax:1,claim=disk,nodes=4,gpus_per_node=8,mount=/data,namespace=ml"
    document = yaml.safe_load(launch(options, "train", "--workdir=/data/x"))
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert document["metadata"] == {"name": "unet", "namespace": "ml"}
    spec = document["spec"]
    assert spec.keys() == {"network", "failurePolicy", "replicatedJobs"}
    assert spec["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
    assert spec["failurePolicy"]["maxRestarts"] == 100
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "FailJobSet"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    (job,) = spec["replicatedJobs"]
    assert job.keys() == {"name", "replicas", "template"}
    assert (job["name"], job["replicas"]) == ("run", 1)
    indexed = job["template"]["spec"]
    assert (indexed["completionMode"], indexed["completions"], indexed["parallelism"]) == ("Indexed", 4, 4)
    assert indexed["backoffLimit"] == 0, "one pod alone is never started again: its job fails, and all start again"
    (rule,) = indexed["podFailurePolicy"]["rules"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "segjax", "operator": "In", "values": [1, 2]},
    }
    pod = indexed["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy demands it"
    assert pod["terminationGracePeriodSeconds"] == 120
    (container,) = pod["containers"]
    assert (container["name"], container["image"]) == ("segjax", "registry/segjax:1")
    assert container["command"] == ["./launch.sh", "train", "--workdir=/data/x"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    values = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
    assert values == {
        # <jobset>-<replicated job>-<job index>-<pod index>.<subdomain, which is the jobset's name>
        "JAX_COORDINATOR_ADDRESS": "unet-run-0-0.unet:8476",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": {
            "fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
        },
        "SEGJAX_PAUSED_STATUS": "75",
    }
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert mounts == {"runs": "/data", "shm": "/dev/shm"}
    assert volumes == {
        "runs": {"persistentVolumeClaim": {"claimName": "disk"}},
        "shm": {"emptyDir": {"medium": "Memory"}},
    }
    assert "resources" not in container_of(launch("--jobset=name=a,image=b,claim=c", "train"))


def test_arguments_reach_a_container_as_they_are():
    words = container_of(launch("--jobset=name=a,image=b,claim=c", "train", *AWKWARD))["command"]
    assert [kubernetes_expands(word, {"x": "changed"}) for word in words] == ["./launch.sh", "train", *AWKWARD]


@pytest.mark.slow
def test_two_pods_train(prepared_dir, tmp_path):
    """Two containers with the command and the environment of the JobSet; loopback in place of the headless service."""
    arguments = ["train", *SMALL, f"--config.data.dir={prepared_dir}", f"--workdir={tmp_path}"]
    container = container_of(launch(f"--jobset=name=a,image=b,claim=c,nodes=2,mount={tmp_path}", *arguments))
    values = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    assert values["JAX_COORDINATOR_ADDRESS"] == "a-run-0-0.a:8476"
    values["JAX_COORDINATOR_ADDRESS"] = "127.0.0.1:8476"
    command = [kubernetes_expands(word, {}) for word in container["command"]]
    pods = [
        subprocess.Popen(command, cwd=ROOT, env=environment(**values, JAX_PROCESS_ID=str(index))) for index in range(2)
    ]
    assert [pod.wait(900) for pod in pods] == [0, 0]
    assert (summary(tmp_path)["processes"], summary(tmp_path)["step"]) == (2, 12)


# TPU pods

GCLOUD = """#!/usr/bin/env bash
# A pod of two hosts: scp copies to the home folder of each, ssh runs --command there.
printf '%s\\n' "$*" >>"$PODS/calls"
for argument in "$@"; do
  case $argument in
    --command=*) command=${argument#--command=} ;;
  esac
done
for host in 0 1; do
  mkdir -p "$PODS/$host"
  case $4 in
    scp) cp "$5" "$PODS/$host/${6#*:}" ;;
    ssh) (cd "$PODS/$host" && HOME=$PWD RECORD_AS=$PWD/ran.json bash -c "$command") || exit ;;
  esac
done
"""


def test_the_commands_for_a_tpu_pod_run_on_each_host(tmp_path):
    checkout = checkout_in(tmp_path / "my checkout")
    for name in (".venv", "runs", ".git"):
        (checkout / name).mkdir()
    arguments = ["train", "--workdir=/mnt/runs/x", *AWKWARD]
    script = launch("--tpu=name=my-pod,zone=us-central2-b,project=p", *arguments, root=checkout)
    program(checkout, "launch.sh", RECORD)  # what the hosts will have
    program(tmp_path / "bin", "gcloud", GCLOUD)
    pods = tmp_path / "pods"
    pods.mkdir()
    for _ in range(2):  # the second time is the one after a preemption
        done = bash(script, cwd=tmp_path, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", PODS=str(pods))
        assert done.returncode == 0, done.stderr
    for host in "01":
        where, found, variables = json.loads((pods / host / "ran.json").read_text())
        assert where == str(pods / host / "segjax-checkout")
        assert found == ["--distributed", *arguments]
        assert variables["SEGJAX_VENV"] == str(pods / host / "segjax-venv"), "kept when the checkout is copied anew"
        assert sorted(os.listdir(where)) == ["launch.sh", "segjax"]
    copy, run = (pods / "calls").read_text().split("compute tpus tpu-vm ")[1:3]
    assert re.match(r"scp \S+/segjax.tar.gz my-pod:segjax.tar.gz --zone=us-central2-b --project=p --worker=all", copy)
    assert run.startswith("ssh my-pod --zone=us-central2-b --project=p --worker=all --command=")

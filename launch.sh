#!/usr/bin/env bash
# Sets up the environment once, then runs one command of segjax. `./launch.sh --help` says what there is.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
venv=${SEGJAX_VENV:-$root/.venv}
example=$root/experiments/digit_scenes/unet.py

usage() {
  cat <<'TEXT'
usage: ./launch.sh [--processes N] [--distributed] [--slurm|--jobset|--tpu OPTIONS] COMMAND [ARGUMENT ...]

Makes .venv from the pinned requirements when it is not there yet (about a minute), then runs

  train      train, evaluate and save     --config FILE --workdir DIR [--config.FIELD=VALUE ...]
             (alone: a small U-Net on the embedded data set, in runs/digit_scenes_unet)
  forecast   memory, FLOPs, bytes sent    --config FILE[:VARIANT] --devices N [--device_kind h100]
  evaluate   scores of a trained model    --workdir DIR, or --config FILE --config.init.path=WEIGHTS
  predict    label maps of your images    --workdir DIR --input FILE|DIR|GLOB --output DIR
             or an overlaid video         --input VIDEO, or --clip --input FOLDER_OF_FRAMES
  ablate     an ablation study's runs     --config FILE[:VARIANT] --workdir DIR [--plan] [--jobs N] [--slurm OPTIONS]
  compare    results side by side         --results FILE_OR_WORKDIR,FILE_OR_WORKDIR,...
  report     report.html, .md and .tex of an ablation study    --workdir DIR
  tune_crf   parameters of a CRF on top   --workdir DIR
  benchmark  speed, compile time, memory  --config FILE[:VARIANT] [--mode train,infer] [--against pytorch] [--output FILE.json]
  inspect    class table and pictures of a data set        --config FILE
  test       the linter and the tests; with arguments, pytest with these
  setup      only make the environment

`./launch.sh COMMAND --help` lists a command's flags. A file that does not lie under the current folder is
looked for beside this script, so that `--config experiments/camvid/unet.py` works from anywhere.

  --processes N    start N processes on this machine that train together (jax.distributed on loopback)
  --distributed    join the processes of a cluster where this is not seen by itself (SLURM, Open MPI and
                   Cloud TPU are)

These print what runs the command on several hosts, and run nothing (README.md says what must be set up before):
  --slurm nodes=2,gpus_per_node=8,time=24:00:00[,...]       a script for sbatch, with its options
  --jobset name=N,image=IMAGE,claim=VOLUME,nodes=2,gpus_per_node=8[,mount=/runs]    a Kubernetes JobSet
  --tpu name=POD,zone=ZONE[,project=P]                      the gcloud commands for the hosts of a TPU pod

environment: SEGJAX_ACCELERATOR=cpu|cuda12|cuda13|tpu   instead of what is found
             SEGJAX_VENV=DIR                            instead of .venv beside this script
             SEGJAX_DATA=DIR                            folder with camvid/, isbi2012/, davis8/
             SEGJAX_REFERENCES=0                        test without the references in PyTorch
             SEGJAX_PAUSED_STATUS=N                     status of a training that SIGTERM made save and end (0)
TEXT
}

fail() { echo "launch.sh: $*" >&2; exit 1; }

accelerator() {
  if [ -n "${SEGJAX_ACCELERATOR:-}" ]; then
    case $SEGJAX_ACCELERATOR in
      cpu | cuda12 | cuda13 | tpu) echo "$SEGJAX_ACCELERATOR" ;;
      *) fail "SEGJAX_ACCELERATOR must be cpu, cuda12, cuda13 or tpu; received '$SEGJAX_ACCELERATOR'" ;;
    esac
  elif driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) && [ -n "$driver" ]; then
    if [ "${driver%%.*}" -ge 580 ] 2>/dev/null; then echo cuda13; else echo cuda12; fi
  elif [ -e /dev/accel0 ] || [ -n "${TPU_WORKER_HOSTNAMES:-}" ]; then
    echo tpu
  else
    echo cpu
  fi
}

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

accelerator_section() { sed -n '/^\[project.optional-dependencies\]/,/^\[tool/p' "$root/pyproject.toml"; }

# setup REQUIREMENTS: make the environment, or bring it up to date, unless its stamp says that it is.
setup() {
  local requirements=$1 kind stamp wanted log
  kind=$(accelerator)
  stamp=$venv/.segjax-runtime
  if [ "$requirements" != "$root/requirements.txt" ]; then stamp=$venv/.segjax-tests; fi
  wanted="$kind $({ cat "$root/requirements.txt" "$requirements" && accelerator_section; } | cksum)"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return; fi

  if command -v flock >/dev/null; then # two starts at once: the second waits and finds it done
    exec 9>"$venv.lock"
    flock 9
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exec 9>&-; return; fi
  fi
  log=$(mktemp)
  echo "Setting up $venv for $kind (once, about a minute) ..." >&2
  local pins=()
  if [ "$kind" != cpu ]; then
    # The lines `  "package==version",` of the list that bears this name in pyproject.toml.
    mapfile -t pins < <(accelerator_section | sed -n "/^$kind = \[/,/^\]/s/^  \"\(.*\)\",\$/\1/p")
    [ ${#pins[@]} -gt 0 ] || fail "pyproject.toml must list the packages of $kind"
  fi
  if command -v uv >/dev/null; then
    { [ -x "$venv/bin/python" ] || uv venv --quiet --python '>=3.11' "$venv"; } >"$log" 2>&1 &&
      uv pip install --quiet --python "$venv/bin/python" -r "$requirements" ${pins[@]+"${pins[@]}"} >>"$log" 2>&1
  else
    local python
    python=$(find_python) || fail "Python 3.11 or newer must be installed; none was found as python3"
    { [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"; } >"$log" 2>&1 ||
      fail "no virtual environment could be made in $venv: $(tail -n 1 "$log") (Debian needs python3-venv)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 2 --timeout 20 \
      -r "$requirements" ${pins[@]+"${pins[@]}"} >>"$log" 2>&1
  fi || fail "the packages could not be installed; is a package index reachable? $(grep -iE 'error' "$log" | tail -n 1) (log: $log)"
  echo "$wanted" >"$stamp"
  rm -f "$log"
  exec 9>&- || true
}

# The PyTorch networks that tests compare with: an offer, not a need.
setup_references() {
  local requirements=$root/tests/references/requirements.txt stamp=$venv/.segjax-references wanted installer
  wanted=$(cksum <"$requirements")
  if [ "${SEGJAX_REFERENCES:-1}" = 0 ] || { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; }; then return; fi
  echo "Installing the references in PyTorch for the tests (SEGJAX_REFERENCES=0 leaves them out) ..." >&2
  if command -v uv >/dev/null; then
    installer=(uv pip install --quiet --python "$venv/bin/python" --index-strategy unsafe-best-match)
  else
    installer=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20)
  fi
  if "${installer[@]}" --no-deps -r "$requirements" >/dev/null 2>&1; then
    echo "$wanted" >"$stamp"
  else
    echo "They could not be installed: the tests that compare with them are skipped." >&2
  fi
}

# Replace the value of --config by the file beside this script where it is not under the current folder.
arguments=()
place_config() {
  local previous="" argument file variant
  for argument in "$@"; do
    if [ "$previous" = --config ]; then
      file=${argument%%:*} variant=${argument#"${argument%%:*}"}
      if [ ! -e "$file" ] && [ -e "$root/$file" ]; then argument=$root/$file$variant; fi
    elif [[ $argument == --config=* ]]; then
      file=${argument#--config=} variant=${file#"${file%%:*}"} file=${file%%:*}
      if [ ! -e "$file" ] && [ -e "$root/$file" ]; then argument=--config=$root/$file$variant; fi
    fi
    arguments+=("$argument")
    previous=$argument
  done
}

has() { # has --flag ARGUMENTS...: is it among them, as --flag or --flag=value?
  local flag=$1 argument
  shift
  for argument in "$@"; do
    if [ "$argument" = "$flag" ] || [[ $argument == "$flag="* ]]; then return 0; fi
  done
  return 1
}

# run_processes N COMMAND...: the same command in N processes that find each other through JAX's coordinator. Where
# one ends badly the others do too, within a minute; the status is the highest of theirs, as srun's is.
run_processes() {
  local count=$1 port pids=() status=0 index pid
  shift
  port=$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count
  for ((index = 0; index < count; index++)); do
    if [ -z "${CUDA_VISIBLE_DEVICES:-}" ] && command -v nvidia-smi >/dev/null; then
      JAX_PROCESS_ID=$index CUDA_VISIBLE_DEVICES=$index "$@" &
    else
      JAX_PROCESS_ID=$index "$@" &
    fi
    pids+=($!)
  done
  trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
  for ((index = 0; index < count; index++)); do
    # `wait` returns early when a trapped signal comes, so ask until the process has really ended.
    while :; do
      pid_status=0
      wait "${pids[index]}" 2>/dev/null || pid_status=$? # whose own words about a killed one would be the last
      kill -0 "${pids[index]}" 2>/dev/null || break
    done
    if [ "$pid_status" -gt "$status" ]; then status=$pid_status; fi
  done
  return "$status"
}

processes=1 cluster="" options=""
while [ $# -gt 0 ]; do
  case $1 in
    --processes)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "--processes must be a number of at least 1; received '${2:-}'"
      processes=$2
      shift 2
      ;;
    --processes=*) set -- --processes "${1#*=}" "${@:2}" ;;
    --slurm | --jobset | --tpu)
      [ $# -ge 2 ] || fail "$1 must be followed by its options, OPTION=VALUE,...; ./launch.sh --help shows them"
      cluster=${1#--} options=$2
      shift 2
      ;;
    --slurm=* | --jobset=* | --tpu=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --distributed) export SEGJAX_DISTRIBUTED=1; shift ;;
    -h | --help | help) usage; exit 0 ;;
    -*) fail "unknown option '$1'; ./launch.sh --help shows what there is" ;;
    *) break ;;
  esac
done
if [ $# -eq 0 ]; then usage; exit 0; fi

command=$1
shift
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

case $command in
  setup | test) [ -z "$cluster" ] || fail "--$cluster runs a command of segjax; received '$command'" ;;&
  setup)
    setup "$root/requirements.txt"
    ;;
  test)
    setup "$root/tests/requirements.txt"
    setup_references
    cd "$root"
    if [ $# -eq 0 ]; then
      "$venv/bin/ruff" check .
      "$venv/bin/ruff" format --check --quiet . || fail "ruff format would change files: run $venv/bin/ruff format ."
      exec "$venv/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 --quiet
    fi
    exec "$venv/bin/python" -m pytest "$@"
    ;;
  *)
    module=${command//-/_}
    if [[ ! $module =~ ^[a-z_]+$ ]] || ! grep -qs '^if __name__ == "__main__":' "$root/segjax/$module.py"; then
      mains=$(cd "$root/segjax" && grep -ls '^if __name__ == "__main__":' -- *.py | sed 's/\.py$//' | tr '\n' ' ')
      fail "unknown command '$command'; there are: ${mains}test setup"
    fi
    if [ -n "$cluster" ]; then
      python=$(find_python) || fail "Python 3.11 or newer must be installed; none was found as python3"
      exec "$python" -P "$root/segjax/core/cluster.py" "$cluster" "$options" "$command" "$@"
    fi
    setup "$root/requirements.txt"
    if [ "$(accelerator)" = cpu ]; then
      # A step's arrays are large and freed after it. So that the kernel does not clear their pages anew in every step,
      # glibc keeps them, in huge pages where the system has them.
      export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
      export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1000000000000}
    fi
    place_config "$@"
    if [ "$module" = train ] && ! has --config "$@" && ! has --help "$@" && ! has --helpfull "$@"; then
      arguments+=(--config "$example")
      has --workdir "$@" || arguments+=(--workdir runs/digit_scenes_unet)
      if [ "$processes" -eq 1 ] && [ "$(accelerator)" != cpu ]; then
        has --config.parallel.data "$@" || arguments+=(--config.parallel.data=1) # its batch of 2 needs one device
      fi
    fi
    if [ "$processes" -gt 1 ]; then
      run_processes "$processes" "$venv/bin/python" -m "segjax.$module" "${arguments[@]}"
    else
      exec "$venv/bin/python" -m "segjax.$module" ${arguments[@]+"${arguments[@]}"}
    fi
    ;;
esac

#!/bin/bash
# Trains on all nodes of a Slurm job (22.05 or newer), and goes on by itself after a time limit, a
# lost node or a crash; docs/launch.md says when, and when not:
#   sbatch --nodes=4 slurm/imagenet_rwp.sh configs/imagenet_resnet50.yaml variant=m-arwp
# Every #SBATCH value can be given to sbatch instead, every setting as an environment variable.
#SBATCH --job-name=imagenet-rwp
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --output=%x-%j.out

# --- settings ---
CODE="${CODE:-$SLURM_SUBMIT_DIR}"  # the code; its packages win over installed ones
RUN_DIR="${RUN_DIR:-}"  # run directory; empty: what the settings say (run.dir)
VENV="${VENV:-$CODE/.venv}"  # Python environment to activate; the default one if it is there
SITE="${SITE:-$CODE/slurm/site.sh}"  # what this cluster needs (site.sh.example); likewise
SECRETS="${SECRETS:-}"  # file with keys such as WANDB_API_KEY=..., mode 0600 or 0400
CONTAINER="${CONTAINER:-}"  # image to run in; empty: none
CONTAINER_RUNTIME="${CONTAINER_RUNTIME:-pyxis}"  # or apptainer
CONTAINER_MOUNTS="${CONTAINER_MOUNTS:-}"  # more folders for it, as /host:/inside,...
RANKS_PER_NODE="${RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}"
MAX_ATTEMPTS="${MAX_ATTEMPTS:-50}"  # how often the job may start before it gives up

# --- job ---
set -uo pipefail  # not -e: a signal makes `wait` fail
# What is left of other runs in the shell that has submitted this would speak to Python and torchrun.
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK NODE_RANK MASTER_ADDR MASTER_PORT
unset MPI_LOCALRANKID MPI_LOCALNRANKS "${!TORCHELASTIC_@}" "${!PET_@}" "${!OMPI_COMM_WORLD_@}"
unset "${!PMI_@}" "${!PMIX_@}" "${!MV2_COMM_WORLD_@}" "${!JSM_NAMESPACE_@}"
attempt=${SLURM_RESTART_COUNT:-0}
export MAX_ATTEMPTS RWP_ATTEMPT=$SLURM_JOB_ID.$attempt RWP_LOGS=''
# For scontrol. SLURM_JOB_ID may be that of a whole array: its last task has the array's number.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
say() { printf 'job %s: %s\n' "$RWP_ATTEMPT" "$*"; }

# USR1, before the time limit: the ranks save and stop, and the job is requeued. TERM, as scancel sends
# it, reaches the ranks from Slurm: they save, too, and the job must not come back.
asked='' terminated='' srun=''
trap 'asked=1; [ -z "$srun" ] || ask &' USR1
trap 'terminated=1' TERM
ask() {
  # Ten minutes are most of a short limit: there the ranks go on until its last quarter.
  limit=$((${SLURM_JOB_END_TIME:-0} - ${SLURM_JOB_START_TIME:-0}))
  left=$((${SLURM_JOB_END_TIME:-0} - limit / 4 - $(date +%s)))
  if [ "$limit" -lt 2400 ] && [ "$left" -gt 0 ]; then sleep "$left"; fi
  # Agents ignore the signal once they are there, and ranks until they can save.
  until [ "$(find "$RWP_LOGS" -name 'node-*.log' | wc -l)" = "$SLURM_NNODES" ]; do sleep 1; done
  while kill -USR1 "$srun" 2>/dev/null; do sleep 10; done
}

terminate() { # without Python: Slurm starts no more steps of a job that was cancelled
  [ ! -f "$RWP_LOGS/begin.tsv" ] || grep -qs "	$RWP_ATTEMPT	" "$RUN_DIR/attempts.tsv" ||
    cat "$RWP_LOGS/begin.tsv" >>"$RUN_DIR/attempts.tsv"
  saved=$(find "$RUN_DIR/checkpoints" -name 'step-*.pt' -printf '%f\n' 2>/dev/null |
    sort | sed -nE '$s/^step-0*(.+)\.pt$/\1/p')
  say "terminated; saved up to step ${saved:-0}."
  exit 143
}
requeue() { # [NODES to leave out]
  deadline=''
  # slurmctld may be away for some minutes. It leaves a job alone that was cancelled meanwhile.
  until [ -z "$terminated" ] && why=$(scontrol requeue Incomplete "$job" 2>&1); do
    code=$?
    [ -z "$terminated" ] || terminate
    case "$code $why" in # some clusters do not requeue, or their nodes cannot run scontrol
      12[67]" "* | *fatal:* | *"Invalid user"* | *"Invalid job"*) deadline=0 ;;
      *disabled* | *denied* | *ermitted* | *"not found"*) deadline=0 ;;
    esac
    why=${why##*$'\n'} why=${why##*: } why=${why:-exit code $code of scontrol}
    if [ -z "${deadline:-}" ]; then
      deadline=$((SECONDS + 300))
      say "it cannot be requeued yet ($why); it is tried again for 5 minutes."
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then
      say "it cannot be requeued ($why); submit it again, as with rwp-launch resume" \
        "$(printf %q "${RUN_DIR:-RUN}"): it goes on from its newest checkpoint."
      exit 75
    fi
    sleep 5
  done
  about=$(scontrol -o show job "$job")
  [[ $about != *" Restarts=$attempt "* ]] || terminate
  [ -n "$1" ] || exit 75
  # Only a job that waits takes these; Slurm leaves this script a few seconds.
  known=$(sed -nE 's/.* ExcNodeList=([^ (]+).*/,\1/p' <<<"$about")
  for _ in {1..15}; do
    scontrol update jobid="$job" ExcNodeList="$1$known" 2>/dev/null && exit 75
    sleep 1
  done
  say "$1 cannot be left out of the next attempt." && exit 75
}
follow() { # EXIT CODE of launcher.attempt [NODES to leave out]: goes on, or ends the job here
  [ "$1" != 0 ] || return 0
  [ -z "$terminated" ] || terminate
  case $1 in
    3) requeue "${2:-}" ;;
    2 | 65 | 75) exit "$1" ;;
  esac
  # It could not even run. If so twice in a row, as the log tells (a file, and appended to): for good.
  why="because launcher.attempt has failed (exit code $1)" log=/proc/$$/fd/1
  last="job $SLURM_JOB_ID.$((attempt - 1)): requeued, because launcher.attempt"
  if [ -f "$log" ] && grep -qs "^$last" "$log"; then say "given up, $why again." && exit 65; fi
  [ $((attempt + 1)) -lt "$MAX_ATTEMPTS" ] || { say "given up, $why." && exit 75; }
  say "requeued, $why."
  requeue ""
}

# What others have written (modules, conda) may use variables that are not set.
load() { # NAME FILE, whose default may be missing
  case $2 in
    "$CODE/slurm/site.sh" | "$CODE/.venv/bin/activate") [ -f "$2" ] || return 0 ;;
    *) [ -f "$2" ] || { say "$1: there is no $2; correct it, or leave it out." && exit 2; } ;;
  esac
  if grep -q $'\r$' "$2"; then
    say "$1: $2 has line ends of Windows; convert it, as with sed -i 's/\\r\$//'." && exit 2
  fi
  set +u
  # shellcheck source=/dev/null
  . "$2"
  set -u
}
keys() { # FILE of NAME=value lines, read into `found` as launcher/keys.py does
  local LC_ALL=C # characters are bytes
  double='^[[:space:]]*"([^"]*)"[[:space:]]*(#.*)?$' single="^[[:space:]]*'([^']*)'[[:space:]]*(#.*)?$"
  pasted=$'\t|\xc2[\x80-\xa0]|\xe2[\x80\x81]|\xe3\x80\x80|\xef\xbb\xbf'
  number=0
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    [ "$number" -gt 1 ] || line=${line#$'\xef\xbb\xbf'}
    line=$(trim "$line")
    [[ ${line//$'\t'} != *[[:cntrl:]]* ]] || wrong "$odd"
    case $line in "" | "#"*) continue ;; esac
    name='' value=''
    if [[ $line =~ ^(export[[:space:]]+)?([A-Z_][A-Z0-9_]*|[a-z]+_proxy)[[:space:]]*=(.*)$ ]]; then
      name=${BASH_REMATCH[2]} value=${BASH_REMATCH[3]}
    fi
    if [[ $value =~ $double || $value =~ $single ]]; then
      value=${BASH_REMATCH[1]}
    elif [ -z "$name" ] || [[ $value =~ ^[[:space:]]*[\"\'] ]]; then
      wrong "is no NAME=value, with a NAME in capitals; correct it."
    else
      value=$(trim "${value%%[[:space:]]#*}")
    fi
    [[ ! $value =~ $pasted ]] || wrong "$odd"
    case $name in UID | EUID | PPID | IFS | SHELLOPTS | BASH*)
      wrong "has a name that belongs to the shell; leave it out." ;;
    esac
    found+=("$name=$value")
  done < <(tr '\0' '\1' <"$1") # bash would leave out zero bytes
}
odd="has a character that no key has; type it anew, in a file of plain text (UTF-8, not UTF-16)."
wrong() { say "SECRETS: line $number of $SECRETS $1" && exit 2; }
trim() { [[ $1 =~ ^[[:space:]]*(.*[^[:space:]])?[[:space:]]*$ ]] && printf '%s' "${BASH_REMATCH[1]}"; }
load SITE "$SITE"
if [ -n "$SECRETS" ] && [[ $(stat -Lc %a "$SECRETS") != [0-7]00 ]]; then
  say "SECRETS: $SECRETS is not there, or others may read it; chmod 600 it." && exit 2
fi
found=()
[ -z "$SECRETS" ] || keys "$SECRETS"
[ "${#found[@]}" = 0 ] || export "${found[@]}" # not in keys(), whose own LC_ALL would take theirs
export PYTHONPATH="$CODE${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
# All cores of a node, which the job has for itself, unless --cpus-per-task says otherwise. Where nodes
# are not equal, as in 128,64(x3), srun would want the first one's number on all; unbound, each gives
# what it has.
if [[ -z ${SLURM_CPUS_PER_TASK:-} && ${SLURM_JOB_CPUS_PER_NODE:-} == *,* ]]; then
  unset SRUN_CPUS_PER_TASK
  export SLURM_CPU_BIND=none
else
  export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}"
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# Where the ranks run (step, inside), and how to run one command there.
[ -z "$RUN_DIR" ] || { mkdir -p "$RUN_DIR"; set -- "$@" "run.dir=$RUN_DIR"; }
mounts=$(printf '%s\n' "$PWD" "$CODE" ${RUN_DIR:+"$RUN_DIR"} | sort -u | sed 's/.*/&:&/' | paste -sd,)
mounts+=${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}
step=() inside=() once=()
case ${CONTAINER:+$CONTAINER_RUNTIME} in
  "") load VENV "$VENV/bin/activate" ;;
  pyxis)
    step=(--container-image="$CONTAINER" --container-mounts="$mounts" --container-workdir="$PWD")
    once=(srun --nodes=1 --ntasks=1 --export=ALL "${step[@]}") ;;
  apptainer)
    inside=(apptainer exec --nv --bind "$mounts" --pwd "$PWD" "$CONTAINER")
    once=("${inside[@]}") ;;
  *) say "CONTAINER_RUNTIME: $CONTAINER_RUNTIME is neither pyxis nor apptainer." && exit 2 ;;
esac
once+=(python -m launcher.attempt)
RUN_DIR=$("${once[@]}" begin "$@" --ranks $((SLURM_NNODES * RANKS_PER_NODE)))
follow $?
export RWP_LOGS=$RUN_DIR/logs/$RWP_ATTEMPT

# Nodes that do not say that they are fit are left out of the next attempt.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST" 2>/dev/null ||
  srun --export=ALL --label printenv SLURMD_NODENAME | sort -n | sed 's/.*: //')
[ "${#nodes[@]}" -gt 0 ] || { say "neither scontrol nor srun names the job's nodes."; exit 65; }
findings=$(srun --export=ALL "${step[@]}" "${inside[@]}" python -m launcher.attempt doctor "$@")
sick=$("${once[@]}" nodes "$RUN_DIR" "${nodes[@]}" <<<"$findings")
follow $? "$sick"
addresses=() # ranks meet at the first: by its name, or where Slurm reaches it
for node in "${nodes[@]}"; do
  address=''
  getent ahosts "$node" >/dev/null || address=$(scontrol -o show node "$node" 2>/dev/null |
    sed -nE 's/(^|.* )NodeAddr=([^ ]+).*/\2/p' | tr -d '[]')
  addresses+=("${address:-$node}")
done
export ADDRESSES="${addresses[*]}"
first=${addresses[0]}
[[ $first != *:* ]] || first="[$first]" # IPv6

# shellcheck disable=SC2016  # expanded on each node
srun --kill-on-bad-exit=1 --wait=60 --export=ALL "${step[@]}" "${inside[@]}" bash -c '
  trap "" USR1 USR2  # not for the agent, and not for ranks before they can save
  addresses=($ADDRESSES)
  exec python -m launcher.agent "$RWP_LOGS" "$SLURM_NODEID" \
    --local-addr="${addresses[SLURM_NODEID]}" --rdzv-conf=is_host=$((SLURM_NODEID == 0)) "$@"
' bash --nnodes="$SLURM_NNODES" --nproc-per-node="$RANKS_PER_NODE" --max-restarts=0 \
  --shutdown-timeout=20 --rdzv-backend=c10d --rdzv-id="$RWP_ATTEMPT" \
  --rdzv-endpoint="$first:$((10000 + SLURM_JOB_ID % 20000))" \
  -m rwp_dist train "$@" &
srun=$!
[ -z "$asked" ] || ask &
while kill -0 "$srun" 2>/dev/null; do wait "$srun"; done
[ -z "$terminated" ] || terminate
"${once[@]}" end "$RUN_DIR"
follow $?

#!/bin/bash
# Trains on all nodes of a Slurm job (22.05 or newer), and goes on by itself after a time limit, a
# lost node or a crash:
#   sbatch --nodes=4 slurm/imagenet_rwp.sh configs/imagenet_resnet50.yaml method.name=m-arwp
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
# Folder with the code; its packages win over installed ones.
CODE="${CODE:-$SLURM_SUBMIT_DIR}"
# Run directory. Empty: what the settings say (run.dir).
RUN_DIR="${RUN_DIR:-}"
# Python environment to activate; the default one if it is there.
VENV="${VENV:-$CODE/.venv}"
# What this cluster needs, sourced: slurm/site.sh.example. The default one if it is there.
SITE="${SITE:-$CODE/slurm/site.sh}"
# File with keys such as WANDB_API_KEY=..., which only you may read (mode 0600 or 0400).
SECRETS="${SECRETS:-}"
# Image to run in (empty: none), by pyxis or apptainer; more folders for it as /host:/inside,...
CONTAINER="${CONTAINER:-}"
CONTAINER_RUNTIME="${CONTAINER_RUNTIME:-pyxis}"
CONTAINER_MOUNTS="${CONTAINER_MOUNTS:-}"
RANKS_PER_NODE="${RANKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}"
# How often the job may start before it gives up.
MAX_ATTEMPTS="${MAX_ATTEMPTS:-50}"

# --- job ---
set -uo pipefail  # not -e: a signal makes `wait` fail
attempt=${SLURM_RESTART_COUNT:-0}
id=$SLURM_JOB_ID.$attempt
# For scontrol. SLURM_JOB_ID may be that of a whole array: its last task has the array's number.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
say() { printf 'job %s: %s\n' "$id" "$*"; }

# USR1, ten minutes before the time limit: the ranks save and stop, and the job is requeued. It is
# sent until they are gone, because ranks that still start up ignore it. TERM, as scancel sends it,
# reaches the ranks from Slurm: they save, too, and the job must not come back.
asked='' terminated='' srun=''
limit=$((${SLURM_JOB_END_TIME:-0} - ${SLURM_JOB_START_TIME:-0})) # in seconds; 0: unknown
trap 'asked=1; [ -z "$srun" ] || ask &' USR1
trap 'terminated=1' TERM
ask() {
  # Ten minutes are most of a short limit; there the ranks go on until its last quarter.
  left=$((${SLURM_JOB_END_TIME:-0} - limit / 4 - $(date +%s)))
  if [ "$limit" -lt 2400 ] && [ "$left" -gt 0 ]; then sleep "$left"; fi
  # All agents must be there: only then do they ignore it.
  until [ "$(find "$RWP_LOGS" -name 'node-*.log' | wc -l)" = "$SLURM_NNODES" ]; do sleep 1; done
  while kill -USR1 "$srun" 2>/dev/null; do sleep 10; done
}

requeue() { # [NODES to leave out]
  # slurmctld may be away for some minutes. A job that was cancelled meanwhile must not come back:
  # slurmctld leaves one alone that is no longer incomplete.
  until [ -z "$terminated" ] && scontrol requeue Incomplete "$job"; do
    [ -z "$terminated" ] || { say terminated; exit 143; }
    [ "$SECONDS" -lt "${deadline:=$((SECONDS + 300))}" ] || { say "it cannot be requeued."; exit 1; }
    sleep 5
  done
  [[ $(scontrol -o show job "$job") != *" Restarts=$attempt "* ]] || { say terminated; exit 143; }
  # Only a job that waits takes these; Slurm leaves this script a few seconds.
  [ -z "$1" ] || for _ in {1..15}; do
    scontrol update jobid="$job" ExcNodeList="$1" 2>/dev/null && return
    sleep 1
  done
  [ -z "$1" ] || say "$1 cannot be left out of the next attempt."
}

# What others have written (modules, conda, this file of keys) may use variables that are not set.
load() { # NAME FILE, whose default may be missing
  case $2 in
    "$CODE/slurm/site.sh" | "$CODE/.venv/bin/activate") [ -f "$2" ] || return 0 ;;
    *) [ -f "$2" ] || { say "$1: there is no $2; correct it, or leave it out." && exit 2; } ;;
  esac
  set +u
  # shellcheck source=/dev/null
  . "$2"
  set -u
}
load SITE "$SITE"
if [ -n "$SECRETS" ]; then
  if [[ $(stat -Lc %a "$SECRETS") != [0-7]00 ]]; then
    say "SECRETS: $SECRETS is not there, or others may read it; chmod 600 it."
    exit 2
  fi
  set -a
  load SECRETS "$SECRETS"
  set +a
fi
export PYTHONPATH="$CODE${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Unless --cpus-per-task says otherwise, all cores of a node, which the job has for itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}"

# Where the ranks run (step, inside), and how to run one command there.
[ -z "$RUN_DIR" ] || mkdir -p "$RUN_DIR"
mounts=$(printf '%s\n' "$PWD" "$CODE" ${RUN_DIR:+"$RUN_DIR"} | sort -u | sed 's/.*/&:&/' | paste -sd,)
mounts+=${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}
step=() inside=() once=()
case ${CONTAINER:+$CONTAINER_RUNTIME} in
  "")
    load VENV "$VENV/bin/activate" ;;
  pyxis)
    step=(--container-image="$CONTAINER" --container-mounts="$mounts" --container-workdir="$PWD")
    once=(srun --nodes=1 --ntasks=1 --export=ALL "${step[@]}") ;;
  apptainer)
    inside=(apptainer exec --nv --bind "$mounts" --pwd "$PWD" "$CONTAINER")
    once=("${inside[@]}") ;;
  *)
    say "CONTAINER_RUNTIME: $CONTAINER_RUNTIME is neither pyxis nor apptainer."
    exit 2 ;;
esac

# Wrong settings end the job here, with all that is wrong as its last lines; anything else that goes
# wrong (a file system, an image) may be better next time.
[ -z "$RUN_DIR" ] || set -- "$@" "run.dir=$RUN_DIR"
ranks=$((SLURM_NNODES * RANKS_PER_NODE))
RUN_DIR=$("${once[@]}" python -m rwp_dist settings "$@" --ranks "$ranks" --get run.dir)
code=$?
if [ "$code" = 2 ]; then exit 2; fi
if [ "$code" != 0 ]; then
  why="because the settings could not be read (exit code $code)."
  # There may be no run directory yet. The log, which all attempts write to, tells of the last one.
  log=/proc/$$/fd/1 last="job $SLURM_JOB_ID.$((attempt - 1)): requeued, because the settings"
  if [ -f "$log" ] && grep -qs "^$last" "$log"; then
    say "given up, $why It was the same the last time." && exit 65
  elif [ $((attempt + 1)) -ge "$MAX_ATTEMPTS" ]; then
    say "given up after $MAX_ATTEMPTS attempts, $why" && exit 75
  fi
  say "requeued, $why"
  requeue ""
  exit 75
fi
RUN_DIR=$(realpath -m "$RUN_DIR")

# How this attempt begins: the line of attempts.tsv that stands if rank 0 cannot write its own.
saved() { # the newest checkpoint's step
  find "$RUN_DIR/checkpoints" -name 'step-*.pt' -printf '%f\n' 2>/dev/null |
    sed -E 's/^step-0*([0-9]+)\.pt$/\1/' | sort -n | tail -n1 | grep . || echo 0
}
record() { # JOB.ATTEMPT, unless it is there
  grep -qs "	$1	" "$RUN_DIR/attempts.tsv" || cat "$RUN_DIR/logs/$1/begin.tsv" >>"$RUN_DIR/attempts.tsv"
}
before=$(saved) previous=$SLURM_JOB_ID.$((attempt - 1))
export RWP_ATTEMPT=$id RWP_LOGS=$RUN_DIR/logs/$id
mkdir -p "$RWP_LOGS"
printf '%s\t' "$(date -u +%FT%T+00:00)" lost "$before" "$before" "$id" "$SLURM_JOB_NODELIST" |
  sed 's/\t$/\n/' >"$RWP_LOGS/begin.tsv"
[ -s "$RUN_DIR/attempts.tsv" ] ||
  printf 'started\tstate\tfirst_step\tlast_step\tjob\tnodes\n' >"$RUN_DIR/attempts.tsv"
[ "$attempt" = 0 ] || record "$previous"

finish() { # CODE OUTCOME REASON [NODES to leave out]: the log's last lines, and what comes next
  record "$id"
  [ "$2" != requeued ] || [ -z "$terminated" ] || set -- 143 terminated ""
  say "$2; saved up to step $(saved)."
  [ -z "$3" ] || printf '%s\n' "$3"
  [ "$2" != requeued ] || requeue "${4:-}"
  exit "$1"
}

[ "$limit" -le 0 ] || [ "$limit" -ge 2400 ] ||
  say "the time limit is short: ranks save and stop $((limit / 4)) s before its end."
say "attempt $((attempt + 1)) on $SLURM_JOB_NODELIST, from step $before; logs of ranks: $RWP_LOGS"

# Nodes that do not say that they are fit are left out of the next attempt; but if all do not, twice
# in a row, it is not the nodes.
# shellcheck disable=SC2016  # expanded on each node
findings=$(srun --export=ALL "${step[@]}" "${inside[@]}" bash -c '
  said=$RWP_LOGS/doctor-$SLURMD_NODENAME.log  # no pipe: a stuck nvidia-smi would hold it open
  timeout -k 10 120 python -m rwp_dist doctor --node "$@" >"$said" 2>&1 </dev/null
  sed -E "s/^($SLURMD_NODENAME: )?/$SLURMD_NODENAME: /" "$said"' bash "$@")
fit=$(sed -nE 's/^([^:]+): fit\b.*/\1/p' <<<"$findings")
sick=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -vxF -e "$fit" | paste -sd,)
for node in ${sick//,/ }; do
  grep -q "^$node: " <<<"$findings" ||
    findings+="${findings:+$'\n'}$node: the doctor has not come back from there."
done
[ -z "$findings" ] || printf '%s\n' "$findings"
if [ -n "$sick" ] && [ -z "$terminated" ]; then
  echo "$findings" >"$RWP_LOGS/sick"
  known=$(scontrol -o show job "$job" | sed -nE 's/.* ExcNodeList=([^ (]+).*/,\1/p')
  all='' leave_out=$sick$known
  [ "$(tr , '\n' <<<"$sick" | wc -l)" -lt "$SLURM_NNODES" ] || all=1
  [ -z "$all" ] || [ "$SLURM_NNODES" = 1 ] || leave_out=''
  if [ -z "$all" ] || [ ! -e "$RUN_DIR/logs/$previous/sick" ]; then
    [ $((attempt + 1)) -ge "$MAX_ATTEMPTS" ] || finish 75 requeued "Sick: $sick" "$leave_out"
  fi
  finish 65 "given up, because of sick nodes" "Sick: $sick"
fi

# Ranks meet at the first node: by its name, or where Slurm reaches it.
addresses=()
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
  getent ahosts "$node" >/dev/null ||
    node=$(scontrol -o show node "$node" | sed -E 's/.* NodeAddr=([^ ]+).*/\1/')
  addresses+=("$node")
done
export ADDRESSES="${addresses[*]}"
port=$((10000 + SLURM_JOB_ID % 20000))

# shellcheck disable=SC2016  # expanded on each node
srun --kill-on-bad-exit=1 --wait=60 --export=ALL "${step[@]}" "${inside[@]}" bash -c '
  trap "" USR1 USR2  # not for the agent, and not for ranks before they can save
  addresses=($ADDRESSES)
  exec torchrun --local-addr="${addresses[SLURM_NODEID]}" \
    --rdzv-conf=is_host=$((SLURM_NODEID == 0)) "$@" 2>"$RWP_LOGS/node-$SLURM_NODEID.log"
' bash --nnodes="$SLURM_NNODES" --nproc-per-node="$RANKS_PER_NODE" --max-restarts=0 \
  --rdzv-backend=c10d --rdzv-id="$id" --rdzv-endpoint="${addresses[0]}:$port" \
  --shutdown-timeout=20 --log-dir="$RWP_LOGS/agents" -m rwp_dist train "$@" &
srun=$!
[ -z "$asked" ] || ask &
while kill -0 "$srun" 2>/dev/null; do wait "$srun"; done

# What came of it: exit codes of agents get lost on the way, what ranks have written does not.
if grep -qs '"state": "finished"' "$RUN_DIR/status.json"; then finish 0 finished ""; fi
[ -z "$terminated" ] || finish 143 terminated ""
why=$("${once[@]}" python -m launcher.failure "$RWP_LOGS")
code=$?
if [ "$code" = 2 ] || [ "$code" = 65 ]; then
  finish "$code" "given up, because it would fail again" "$why"
elif [ "$code" = 75 ] && grep -qs '"reason": "wandb"' "$RUN_DIR/status.json"; then
  finish 75 "stopped in W&B" "$why"
elif [ "$(saved)" = "$before" ] && [ ! -e "$RUN_DIR/logs/$previous/sick" ] &&
  [ "$(cut -sf3 "$RUN_DIR/logs/$previous/begin.tsv" 2>/dev/null)" = "$before" ]; then
  finish 65 "given up, because two attempts saved nothing new" "$why"
elif [ $((attempt + 1)) -ge "$MAX_ATTEMPTS" ]; then
  finish 75 "given up after $MAX_ATTEMPTS attempts" "$why"
fi
finish 75 requeued "$why"

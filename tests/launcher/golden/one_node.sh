#!/bin/bash
# Trains on all nodes of a Slurm job (22.05 or newer), and goes on by itself after a time limit, a
# lost node or a crash; docs/launch.md says when, and when not:
#   sbatch --nodes=4 slurm/imagenet_rwp.sh configs/imagenet_resnet50.yaml variant=m-arwp
# Every #SBATCH value can be given to sbatch instead, every setting as an environment variable.
#SBATCH --job-name=m-rwp-s0
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
#SBATCH --output=/runs/one/logs/slurm-%j.out
#SBATCH --chdir=/runs/one/code/DIGEST

# --- settings ---
CODE=/runs/one/code/DIGEST  # the code; its packages win over installed ones
RUN_DIR=/runs/one  # run directory; empty: what the settings say (run.dir)
VENV=/envs/rwp  # Python environment to activate; the default one if it is there
SITE="$CODE/slurm/site.sh"  # what this cluster needs (site.sh.example); likewise
SECRETS=  # file with keys such as WANDB_API_KEY=..., mode 0600 or 0400
CONTAINER=  # image to run in; empty: none
CONTAINER_RUNTIME="pyxis"  # or apptainer
CONTAINER_MOUNTS=  # more folders for it, as /host:/inside,...
RANKS_PER_NODE=8
MAX_ATTEMPTS="50"  # how often the job may start before it gives up

set -- /runs/one/submitted.yaml


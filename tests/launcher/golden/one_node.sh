#!/bin/bash
# Trains on all nodes of a Slurm job (22.05 or newer), and goes on by itself after a time limit, a
# lost node or a crash:
#   sbatch --nodes=4 slurm/imagenet_rwp.sh configs/imagenet_resnet50.yaml method.name=m-arwp
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
# Folder with the code; its packages win over installed ones.
CODE=/runs/one/code/DIGEST
# Run directory. Empty: what the settings say (run.dir).
RUN_DIR=/runs/one
# Python environment to activate; the default one if it is there.
VENV=/envs/rwp
# What this cluster needs, sourced: slurm/site.sh.example. The default one if it is there.
SITE="$CODE/slurm/site.sh"
# File with keys such as WANDB_API_KEY=..., which only you may read (mode 0600 or 0400).
SECRETS=
# Image to run in (empty: none), by pyxis or apptainer; more folders for it as /host:/inside,...
CONTAINER=
CONTAINER_RUNTIME="pyxis"
CONTAINER_MOUNTS=
RANKS_PER_NODE=8
# How often the job may start before it gives up.
MAX_ATTEMPTS="50"

set -- /runs/one/submitted.yaml


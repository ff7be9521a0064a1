#!/bin/bash
# Trains on all nodes of a Slurm job (22.05 or newer), and goes on by itself after a time limit, a
# lost node or a crash:
#   sbatch --nodes=4 slurm/imagenet_rwp.sh configs/imagenet_resnet50.yaml method.name=m-arwp
# Every #SBATCH value can be given to sbatch instead, every setting as an environment variable.
#SBATCH --job-name='a b'
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --output='/runs/a b/logs/slurm-%A_%a.out'
#SBATCH --chdir='/runs/a b/code/DIGEST'
#SBATCH --array=0-7%3

# --- settings ---
# Folder with the code; its packages win over installed ones.
CODE='/runs/a b/code/DIGEST'
# Run directory. Empty: what the settings say (run.dir).
RUN_DIR='/runs/a b/sgd-lr=0.05-s0'
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
RANKS_PER_NODE=2
# How often the job may start before it gives up.
MAX_ATTEMPTS="50"

case "$SLURM_ARRAY_TASK_ID" in
    0) RUN_DIR='/runs/a b/sgd-lr=0.05-s0' && set -- '/runs/a b/sgd-lr=0.05-s0/submitted.yaml' ;;
    1) RUN_DIR='/runs/a b/sgd-lr=0.1-s0' && set -- '/runs/a b/sgd-lr=0.1-s0/submitted.yaml' ;;
    2) RUN_DIR='/runs/a b/m-rwp-lr=0.05-s0' && set -- '/runs/a b/m-rwp-lr=0.05-s0/submitted.yaml' ;;
    3) RUN_DIR='/runs/a b/m-rwp-lr=0.1-s0' && set -- '/runs/a b/m-rwp-lr=0.1-s0/submitted.yaml' ;;
    4) RUN_DIR='/runs/a b/sgd-lr=0.05-s1' && set -- '/runs/a b/sgd-lr=0.05-s1/submitted.yaml' ;;
    5) RUN_DIR='/runs/a b/sgd-lr=0.1-s1' && set -- '/runs/a b/sgd-lr=0.1-s1/submitted.yaml' ;;
    6) RUN_DIR='/runs/a b/m-rwp-lr=0.05-s1' && set -- '/runs/a b/m-rwp-lr=0.05-s1/submitted.yaml' ;;
    7) RUN_DIR='/runs/a b/m-rwp-lr=0.1-s1' && set -- '/runs/a b/m-rwp-lr=0.1-s1/submitted.yaml' ;;
esac


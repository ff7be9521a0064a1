#!/bin/sh
exec docker run --detach --init \
    --label-file /runs/boxed/job.labels \
    --stop-timeout 600 \
    --user 0:0 \
    --ipc host --ulimit memlock=-1 \
    --volume /runs/boxed:/runs/boxed \
    --volume /data/train:/data/train:ro \
    --volume /data/val:/data/val:ro \
    --workdir /runs/boxed \
    --env PYTHONPATH=/runs/boxed/code/DIGEST \
    --env WANDB_API_KEY --env WANDB_MODE --env RWP_WEBHOOK \
    --gpus 8 \
    --memory=64g \
    rwp:1.0 \
    sh -c 'exec "$@" >>"$0" 2>&1' /runs/boxed/logs/docker.out \
    rwp-launch run --nproc=8 /runs/boxed/submitted.yaml

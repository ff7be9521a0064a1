"""Evaluation of a run's checkpoint without its optimizer, on one process or on many."""

from pathlib import Path

import torch
import torch.distributed as dist

from rwp_dist.base.errors import CheckpointError
from rwp_dist.config import Settings
from rwp_dist.data.open import open_eval
from rwp_dist.process.group import choose_device, process_group, same_on_all_ranks
from rwp_dist.record.directory import RunDir
from rwp_dist.run.build import to_input
from rwp_dist.run.checkpoint import list_checkpoints, read_checkpoint
from rwp_dist.run.evaluate import evaluate, evaluating_mode
from rwp_dist.run.models import build_model


def evaluate_run(settings: Settings, run_dir: RunDir, checkpoint: Path | None) -> str:
    """One line with top-1, top-5 and loss; another one if there are images that cannot be read.

    Raises:
        CheckpointError: there is no checkpoint, or it is not of this network.
        DataError: the evaluation shards cannot be read.
    """
    device = choose_device(settings.run.device)
    with process_group(device), same_on_all_ranks():
        found = list_checkpoints(run_dir.checkpoints)
        path = checkpoint or (found[-1] if found else None)
        if path is None:
            raise CheckpointError(
                f"{run_dir.checkpoints}: there is no checkpoint yet; let the run reach its first."
            )
        state = read_checkpoint(path)
        model = build_model(settings)
        try:
            model.load_state_dict({**state["weights"], **state["buffers"]})
        except RuntimeError as error:
            raise CheckpointError(f"{path}: is not of this network ({error}).") from None
        model.to(device)
        val = open_eval(settings, dist.get_rank(), dist.get_world_size())
        bf16 = settings.precision == "bf16"
        with evaluating_mode(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            result, bad = evaluate(
                lambda x: model(to_input(settings, x)).float(), val.steps(), device
            )
    line = (
        f"{path}: top-1 {result['top1']:.2f} %  top-5 {result['top5']:.2f} %  "
        f"loss {result['loss']:.4f}  ({result['num_samples']:,} images)"
    )
    if bad:
        line += f"\n{len(bad):,} more could not be read. The first: {bad[0].reason}"
    return line

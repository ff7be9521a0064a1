"""Runs that were never trained, and what ``rwp-dist evaluate`` prints of a run."""

import multiprocessing
from contextlib import redirect_stdout
from io import StringIO

import torch

from rwp_dist.config import dump_settings, load_settings
from rwp_dist.evaluation.asked import Asked
from rwp_dist.evaluation.command import evaluate_runs
from rwp_dist.evaluation.targets import Target
from rwp_dist.record.directory import RunDir
from rwp_dist.run.models import build_model
from support.stream_sets import CLASSES, SIZE


def untrained_run(folder, val, *overrides, seed=0):
    """The directory of a run with a checkpoint of random weights, and statistics of BatchNorm."""
    settings = load_settings(
        None,
        [
            *(f"run.dir={folder}", f"run.seed={seed}", "run.device=cpu"),
            *(f"data.train={val}", f"data.val={val}", "data.workers=0"),
            *(f"data.image_size={SIZE}", "data.channels=3", "data.mean=[0.5]", "data.std=[0.25]"),
            *(f"model.num_classes={CLASSES}", "batch.per_rank=8"),
            *overrides,
        ],
    )
    run_dir = RunDir(folder)
    run_dir.create()
    run_dir.write_config(dump_settings(settings))
    write_checkpoint(run_dir, settings)
    return run_dir


def write_checkpoint(run_dir, settings, step=1, parts=None):
    """A checkpoint of the weights that a run begins with."""
    model = build_model(settings)
    with torch.no_grad():  # logits that differ
        model.linear.weight.mul_(10)
    state = {"format": 2, "step": step, "optimizer": {}, "optimizer_groups": None}
    state["parts"] = parts or {}
    state["weights"] = {name: p.detach() for name, p in model.named_parameters()}
    state["buffers"] = dict(model.named_buffers())
    torch.save(state, run_dir.checkpoints / f"step-{step:08d}.pt")


def evaluated(settings, asked=None, checkpoint=None, **other):
    """What the command prints on this rank, which is in a group already."""
    multiprocessing.current_process()._config["daemon"] = False  # so that it may have workers
    run_dir = RunDir(settings.run.dir)
    target = Target(run_dir, settings, checkpoint or run_dir.newest_checkpoint())
    with redirect_stdout(StringIO()) as printed:
        evaluate_runs([target], asked or Asked(), torch.device("cpu"), **other)
    return printed.getvalue().rstrip()


def measured_numbers(run):
    """The numbers of all measurements in a run directory."""
    return {
        name: value
        for content in run.read_measurements()
        for name, value in content.get("numbers", {}).items()
    }

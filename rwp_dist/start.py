"""Opening a run directory: a new run, one to go on with, or one that belongs to other settings."""

import torch
import torch.distributed as dist

from rwp_dist.checkpoint import list_checkpoints
from rwp_dist.config import Settings, differences, dump_settings, load_settings
from rwp_dist.errors import ConfigError
from rwp_dist.rundir import RunDir, environment

MAY_CHANGE = (
    "run.name",
    "run.dir",
    "run.check_replicas_every",
    "data.train",
    "data.val",
    "data.workers",
    "data.prefetch",
    "data.cache_dir",
    "data.cache_gb",
    "data.retries",
    "data.stall_s",
    "data.opener",
    "data.max_bad_samples",
    "evaluation.",
    "checkpoint.",
    "tracking.",
)
"""Settings that a resumed run may change, because they do not say what an update computes."""

CHANGES_UPDATES = (
    "run.device",
    "run.threads",
    "batch.per_rank",
    "deepspeed.",
)
"""Settings that a resumed run may change, too, so that it can move to another machine. Like the
number of ranks, they do change its updates: ``batch.per_rank`` and the ranks change the slots, so
which samples are perturbed by which noise, what BatchNorm sees, and the batch of SAM's ascent;
stage 3 shares noise; device, threads and ZeRO change rounding. The samples of an update, their
order and the formulas stay."""


def open_run(settings: Settings) -> RunDir:
    """The run directory, with the resolved settings and the environment written by rank 0.

    Prints a line if what it goes on with changes the updates (``CHANGES_UPDATES``, ranks).

    Raises:
        ConfigError: a run with other settings is there, or the place cannot be written to.
    """
    assert settings.run.dir is not None, "load_settings fills it in"
    run_dir = RunDir(settings.run.dir)
    if dist.get_rank() != 0:
        return run_dir
    finished = run_dir.summary.is_file()
    if run_dir.config.is_file() and (finished or list_checkpoints(run_dir.checkpoints)):
        differing = differences(load_settings(run_dir.config), settings)
        changed = [change for change in differing if not change.startswith(MAY_CHANGE)]
        refused = [change for change in changed if not change.startswith(CHANGES_UPDATES)]
        if refused:
            raise ConfigError(
                f"run.dir: {run_dir.path} holds a run with other settings ({'; '.join(refused)}); "
                "choose another run.dir or run.label, or remove that folder."
            )
        before = (run_dir.read_environment() or {}).get("world_size")
        if before not in (None, dist.get_world_size()):
            changed.append(f"ranks: {before} -> {dist.get_world_size()}")
        if changed and not finished:
            print(
                f"{run_dir.path}: goes on with {'; '.join(changed)}, so its updates are not bit "
                "for bit those of the first attempt.",
                flush=True,
            )
    try:
        run_dir.create()
        run_dir.write_config(dump_settings(settings))
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        run_dir.write_environment(environment(world_size=dist.get_world_size(), gpus=gpus))
    except OSError as error:
        raise ConfigError(
            f"run.dir: {run_dir.path} cannot be written to ({error.strerror}); set run.dir to a "
            "folder of yours."
        ) from None
    return run_dir

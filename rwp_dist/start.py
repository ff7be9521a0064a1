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
    "run.device",
    "run.check_replicas_every",
    "data.train",
    "data.val",
    "batch.per_rank",
    "deepspeed.",
    "evaluation.",
    "checkpoint.",
    "tracking.",
)
"""Settings that a resumed run may change, because they do not say what it computes."""


def open_run(settings: Settings) -> RunDir:
    """The run directory, with the resolved settings and the environment written by rank 0.

    Raises:
        ConfigError: a run with other settings is there, or the place cannot be written to.
    """
    assert settings.run.dir is not None, "load_settings fills it in"
    run_dir = RunDir(settings.run.dir)
    if dist.get_rank() != 0:
        return run_dir
    if run_dir.config.is_file() and (
        list_checkpoints(run_dir.checkpoints) or run_dir.summary.is_file()
    ):
        changed = [
            change
            for change in differences(load_settings(run_dir.config), settings)
            if not change.startswith(MAY_CHANGE)
        ]
        if changed:
            raise ConfigError(
                f"run.dir: {run_dir.path} holds a run with other settings ({'; '.join(changed)}); "
                "choose another run.dir or run.label, or remove that folder."
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

"""Opening a run directory: a new run, one to go on with, or one that belongs to other settings."""

import torch
import torch.distributed as dist

from rwp_dist.base.errors import RunDirError
from rwp_dist.config import Settings, dump_settings
from rwp_dist.record.directory import RunDir, environment
from rwp_dist.record.resume import changed_settings


def open_run(settings: Settings) -> RunDir:
    """The run directory, with the resolved settings and the environment written by rank 0.

    Prints a line if what it goes on with changes the updates (``rwp_dist.record.resume``).

    Raises:
        ConfigError: a run with other settings is there.
        RunDirError: the place cannot be written to.
    """
    assert settings.run.dir is not None, "load_settings fills it in"
    run_dir = RunDir(settings.run.dir)
    if dist.get_rank() != 0:
        return run_dir
    changed = changed_settings(run_dir, settings, dist.get_world_size())
    if changed:
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
        raise RunDirError(
            f"run.dir: {run_dir.path} cannot be written to ({error.strerror}); set run.dir to a "
            "folder of yours."
        ) from None
    return run_dir

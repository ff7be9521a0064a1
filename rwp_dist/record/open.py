"""Open a run directory: for a new run, or for one that goes on."""

from collections.abc import Sequence

from rwp_dist.config import Settings, dump_settings
from rwp_dist.record.directory import RunDir
from rwp_dist.record.environment import environment
from rwp_dist.record.lock import cannot_be_written
from rwp_dist.record.resume import changed_settings, continued_settings


def open_run(settings: Settings, *, world_size: int, gpus: Sequence[str] = ()) -> Settings:
    """Make the run directory and write settings and environment into it; rank 0 calls this.

    Prints a line if the run goes on with settings that change its updates. ``gpus`` are the names
    of this machine's GPUs.

    Returns:
        The settings that the run has from here on (``continued_settings``).

    Raises:
        ConfigError: the directory holds a run with other settings.
        RunDirError: the directory cannot be written to.
    """
    assert settings.run.dir is not None, "load_settings fills it in"
    run_dir = RunDir(settings.run.dir)
    settings = continued_settings(run_dir, settings)
    changed = changed_settings(run_dir, settings, world_size)
    if changed:
        print(
            f"{run_dir.path}: goes on with {'; '.join(changed)}, so its updates are not bit "
            "for bit those of the first attempt.",
            flush=True,
        )
    try:
        run_dir.create()
        run_dir.write_config(dump_settings(settings))
        run_dir.write_environment(environment(world_size=world_size, gpus=gpus))
    except OSError as error:
        raise cannot_be_written(run_dir.path, error) from None
    return settings

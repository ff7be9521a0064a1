"""Open a run directory: for a new run, or for one that goes on."""

import shutil
from collections.abc import Sequence
from typing import Any

from rwp_dist.base import clock
from rwp_dist.config import Settings, dump_settings, with_absolute_paths
from rwp_dist.record.directory import RunDir
from rwp_dist.record.ending import write_lost
from rwp_dist.record.environment import environment
from rwp_dist.record.identity import Identity
from rwp_dist.record.lock import cannot_be_written
from rwp_dist.record.resume import changes_of


def open_run(
    settings: Settings,
    identity: Identity,
    *,
    gpus: Sequence[str] = (),
    git: dict[str, Any] | None = None,
) -> None:
    """Make the run directory and write what this attempt is into it; rank 0 calls this.

    Args:
        settings: of the run (``continued_settings``).
        identity: of the run with these settings.
        gpus: names of this machine's GPUs.
        git: what it says of the code (``code.commit_of``).

    Raises:
        ConfigError: the directory holds another run, and nothing is written; or it is none that
            can be written to.
        RunDirError: its disk is full, or fails.
    """
    assert settings.run.dir is not None, "load_settings fills it in"
    run_dir = RunDir(settings.run.dir)
    changes_of(run_dir, identity)
    try:
        run_dir.create()
        write_lost(run_dir)
        if run_dir.summary.is_file():  # it was finished, and goes on with changes
            _reopen(run_dir)
        run_dir.write_begun(clock.now())
        run = settings.run.model_copy(update={"change": ()})  # of this start alone
        kept = settings.model_copy(update={"run": run})
        run_dir.write_config(dump_settings(with_absolute_paths(kept)))
        run_dir.write_identity(identity)
        run_dir.write_environment(environment(world_size=identity["ranks"], gpus=gpus, git=git))
    except OSError as error:
        raise cannot_be_written(run_dir.path, error) from None


def _reopen(run_dir: RunDir) -> None:
    """Make a finished run one that is not, without what was measured of the network it had.

    Before its identity changes: an attempt that is killed in between leaves the run as it was, to
    finish again.
    """
    step = run_dir.saved_step()
    run_dir.write_status("running", step, (run_dir.read_status() or {}).get("total_steps", step))
    for measured in (run_dir.measured, run_dir.per_class):
        if measured.is_dir():
            shutil.rmtree(measured)
    run_dir.summary.unlink()

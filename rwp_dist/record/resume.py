"""Whether settings are those of the run that a directory holds. Imports no torch."""

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings, differences, load_settings
from rwp_dist.record.directory import RunDir

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
    "noise.",
    "profile",
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


def changed_settings(run_dir: RunDir, settings: Settings, ranks: int) -> list[str]:
    """What a run that goes on with these settings changes of its updates, as ``key: old -> new``.

    Empty too if there is nothing to go on with.

    Raises:
        ConfigError: the directory holds a run with other settings.
    """
    finished = run_dir.summary.is_file()
    if not run_dir.config.is_file() or not (finished or run_dir.has_checkpoint()):
        return []
    differing = differences(load_settings(run_dir.config), settings)
    changed = [change for change in differing if not change.startswith(MAY_CHANGE)]
    refused = [change for change in changed if not change.startswith(CHANGES_UPDATES)]
    if refused:
        raise ConfigError(
            f"run.dir: {run_dir.path} holds a run with other settings ({'; '.join(refused)}); "
            "choose another run.dir or run.label, or remove that folder."
        )
    before = (run_dir.read_environment() or {}).get("world_size")
    if before not in (None, ranks):
        changed.append(f"ranks: {before} -> {ranks}")
    return [] if finished else changed

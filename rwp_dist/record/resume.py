"""Whether a run directory can go on with the settings that are given now."""

import os

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Affects, Settings, affects, differences, load_settings
from rwp_dist.config.sources import read_variables
from rwp_dist.config.tree import Tracking
from rwp_dist.record.directory import RunDir


def continued_settings(run_dir: RunDir, settings: Settings) -> Settings:
    """``settings`` of a run that goes on.

    Null for ``optimizer.no_decay`` is what it began with, and so is its page in W&B, unless a file
    or the command line names another.

    Raises:
        ConfigError: the settings in the directory cannot be read.
    """
    if not _has_begun(run_dir):
        return settings
    begun = _begun_settings(run_dir)
    settings = settings.model_copy(update={"tracking": _same_page(begun, settings)})
    if settings.optimizer.no_decay is not None:
        return settings
    return _with_no_decay(settings, begun.optimizer.no_decay)


def _same_page(begun: Settings, settings: Settings) -> Tracking:
    """``tracking`` with project, entity and name of the run's first attempt.

    A value that a variable of this shell gives, or that is the default, was not asked for.
    """
    variables = dict(read_variables(os.environ))
    kept = {}
    for name in ("project", "entity", "name"):
        value = getattr(settings.tracking, name)
        unasked = (variables.get(f"tracking.{name}"), Tracking.model_fields[name].default)
        if value in unasked:
            kept[name] = getattr(begun.tracking, name)
    return settings.tracking.model_copy(update=kept)


def changed_settings(run_dir: RunDir, settings: Settings, ranks: int) -> list[str]:
    """The settings that a resumed run changes and that affect its updates, as ``key: old -> new``.

    Empty for a new run and for a finished one. Settings that affect the result may not change.

    Raises:
        ConfigError: the directory holds a run with other settings.
    """
    if not _has_begun(run_dir):
        return []
    settings = continued_settings(run_dir, settings)
    differing = [
        difference
        for difference in differences(_begun_settings(run_dir), settings)
        if affects(difference.key) not in (Affects.NOTHING, Affects.PLACE)
    ]
    refused = [
        str(difference) for difference in differing if affects(difference.key) is Affects.RESULT
    ]
    if refused:
        raise ConfigError(
            f"{run_dir.path} holds a run with other settings ({', '.join(refused)})",
            key="run.dir",
            cure="choose another run.dir or run.label, or remove that folder",
        )
    changed = [str(difference) for difference in differing]
    before = (run_dir.read_environment() or {}).get("world_size")
    if before not in (None, ranks):
        changed.append(f"ranks: {before} -> {ranks}")
    return [] if run_dir.summary.is_file() else changed


def _has_begun(run_dir: RunDir) -> bool:
    begun = run_dir.summary.is_file() or run_dir.has_checkpoint()
    return begun and run_dir.config.is_file()


def _begun_settings(run_dir: RunDir) -> Settings:
    """Those of ``config.yaml``. Version 0.1 had no ``optimizer.no_decay`` and decayed all."""
    settings = load_settings(run_dir.config)
    if "no_decay" in settings.optimizer.model_fields_set:
        return settings
    return _with_no_decay(settings, ())


def _with_no_decay(settings: Settings, patterns: tuple[str, ...] | None) -> Settings:
    optimizer = settings.optimizer.model_copy(update={"no_decay": patterns})
    return settings.model_copy(update={"optimizer": optimizer})

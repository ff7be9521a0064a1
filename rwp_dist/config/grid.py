"""The runs of a sweep: variants x a grid of settings x seeds."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from rwp_dist.base.errors import ConfigError
from rwp_dist.config.load import list_variants, load_settings, wandb_group
from rwp_dist.config.sources import VARIABLES
from rwp_dist.config.tree import Settings
from rwp_dist.config.values import dump_settings


def expand(
    config: Path,
    overrides: Sequence[str],
    *,
    variants: str | None,
    grid: Sequence[str],
    seeds: int,
    folder: Path,
) -> list[Settings]:
    """Settings of every run of a sweep. Runs with equal settings are listed once.

    All runs of seed 0 come first, then those of seed 1, and so on.

    Args:
        config: settings file.
        overrides: ``section.key=value`` for all runs.
        variants: names separated by commas; None: all variants of the file.
        grid: ``section.key=value,value,...``; every combination becomes a run.
        seeds: number of seeds; they are 0, 1, and so on.
        folder: gets one run directory for each run.

    Raises:
        ConfigError: settings are wrong, there is no run, or two runs share a directory.
    """
    axes = [_axis(text) for text in grid]
    names = variants.split(",") if variants else list_variants(config) or (None,)
    runs: dict[str, Settings] = {}
    for seed in range(seeds):
        for name in names:
            chosen = [] if name is None else [f"variant={name}"]
            for point in product(*axes):
                axis = [f"{key}={value}" for key, value in point]
                given = [*overrides, *chosen, *axis, f"run.seed={seed}"]
                settings = load_settings(config, given)
                label = str(settings.run.label)
                told = [(key, value) for key, value in point if value != label]
                at = "".join(f"-{key.rpartition('.')[2]}={value}" for key, value in told)
                own = f"{label}{at}-s{seed}".replace("/", "_")
                place = {"name": own, "dir": str(folder / own)}
                runs.setdefault(_identity(settings), _placed(settings, place, f"{label}{at}"))
    places = [str(settings.run.dir) for settings in runs.values()]
    if shared := next((place for place in places if places.count(place) > 1), None):
        raise ConfigError(
            f"two runs would have the directory {shared}",
            key="run.label",
            cure="leave run.label to the sweep",
        )
    if not runs:
        raise ConfigError("there is nothing to run", key="--seeds", cure="give 1 or more")
    return list(runs.values())


def _placed(settings: Settings, place: dict[str, str], group: str) -> Settings:
    """A run of the sweep with its name and folder. Seeds of one point share a W&B group.

    Raises:
        ConfigError: W&B would take all runs for one.
    """
    run, tracking = settings.run, settings.tracking
    for key in ("id", "name"):
        if value := getattr(tracking, key):
            raise ConfigError(
                f"{value!r} is one run in W&B, and this is a sweep",
                key=f"tracking.{key}",
                cure=f"leave it out, and {VARIABLES[f'tracking.{key}']} too",
            )
    if tracking.group == wandb_group(str(run.label)):  # nobody asked for another
        tracking = tracking.model_copy(update={"group": wandb_group(group)})
    run = run.model_copy(update=place)
    return settings.model_copy(update={"run": run, "tracking": tracking})


def _axis(text: str) -> list[tuple[str, str]]:
    """``(a.b, 1)`` and ``(a.b, 2)`` of ``a.b=1,2``."""
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise ConfigError(
            f"{text!r} does not list values", key="--grid", cure="write section.key=value,value"
        )
    return [(key, value) for value in values.split(",")]


def _identity(settings: Settings) -> str:
    """Equal for runs that compute the same under the same label."""
    run = settings.run.model_copy(update={"name": None, "dir": None})
    return dump_settings(settings.model_copy(update={"run": run}))

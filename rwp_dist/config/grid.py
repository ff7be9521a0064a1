"""The runs of a sweep: variants x a grid of settings x seeds."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import yaml

from rwp_dist.base.errors import ConfigError, SettingsError
from rwp_dist.base.text import plural
from rwp_dist.base.urls import shown_tree
from rwp_dist.config.document import reason, split_list
from rwp_dist.config.load import list_variants, read_settings, source_name
from rwp_dist.config.names import Point, folder_name, point_name, wandb_group
from rwp_dist.config.sources import VARIABLES, read_overrides
from rwp_dist.config.tree import Settings
from rwp_dist.config.unused import uses
from rwp_dist.config.values import values_by_key

SEEDS = 3
"""Of a sweep that does not say how many."""
MOST_SEEDS = 10_000
INSTEAD = {
    "variant": "name variants with --variants",
    "run.name": "leave it out: a sweep names its runs",
    "run.dir": "leave it out: --dir says where the runs go",
}
"""Settings that a sweep gives its runs itself, and what to write instead."""


def expand(
    config: Path,
    overrides: Sequence[str],
    *,
    variants: str | None,
    grid: Sequence[str],
    seeds: int | None,
    folder: Path,
) -> list[Settings]:
    """Settings of every run of a sweep. Runs with equal settings are listed once.

    All runs of the first seed come first, then those of the next one, and so on. Settings that a
    run has no use for, such as the sigma of sgd, are not multiplied over it.

    Args:
        config: settings file.
        overrides: ``section.key=value`` for all runs; the grid wins over them.
        variants: names separated by commas; None: all variants of the file.
        grid: ``section.key=value,value,...``; every combination becomes a run.
        seeds: number of seeds, from ``run.seed`` on; None: 3. Seeds in the grid are taken as they
            are.
        folder: gets one run directory for each run.

    Raises:
        ConfigError: the file cannot be read, there is no run, or two runs share a directory.
        SettingsError: settings are wrong; its ``problems`` are those of all runs, each once.
    """
    axes = read_grid(grid)
    for text in overrides:
        _refuse_own(text.partition("=")[0])
    named = axes.pop("run.seed", None)
    rounds = _rounds(named, seeds)
    names = _names(config, variants)
    runs: dict[str, Settings] = {}
    first: dict[tuple[str | None, Point], int] = {}
    found: list[_Combination] = []
    for number in rounds:
        for name in names:
            for point in product(*([(key, text) for text in axes[key]] for key in axes)):
                seed = None
                if named or number:
                    seed = named[number] if named else str(first[name, point] + number)
                given = [
                    *overrides,
                    *([] if name is None else [f"variant={json.dumps(name, ensure_ascii=False)}"]),
                    *([] if seed is None else [f"run.seed={seed}"]),
                ]
                swept = [f"{key}={text}" for key, text in point]
                settings, problems = read_settings(config, given, swept)
                first.setdefault((name, point), settings.run.seed)
                chosen = {"variant": name, **dict(point)} | ({"run.seed": seed} if named else {})
                found.append(_Combination(chosen, {str(p): p for p in problems}))
                if not problems:
                    used = [(key, text) for key, text in point if uses(settings, key)]
                    runs.setdefault(_identity(settings), _placed(settings, used, folder))
    if problems := _problems(found):
        raise SettingsError(source_name(config), problems)
    _refuse_shared([str(settings.run.dir) for settings in runs.values()])
    if not runs:
        raise ConfigError("there is nothing to run", key="--seeds", cure="give 1 or more")
    return list(runs.values())


def check_grid(grid: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuse a command line that gives a setting values in both.

    Raises:
        ConfigError: it does.
    """
    fixed = dict(read_overrides(overrides, []))
    for key in read_grid(grid):
        if key in fixed:
            raise ConfigError(
                "--grid has values for it, and so has an override", key=key, cure="keep one of them"
            )


def read_grid(grid: Sequence[str]) -> dict[str, list[str]]:
    """The values of each setting of ``a.b=1,2``, as they are written.

    Raises:
        ConfigError: there is no value, a setting comes twice, or a sweep gives it its value.
    """
    axes: dict[str, list[str]] = {}
    cure = "write section.key=value,value, and a value with a comma or a bracket in quotes"
    for text in grid:
        key, equals, values = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r:.80} does not list values", key="--grid", cure=cure)
        try:
            listed = split_list(values)
        except yaml.YAMLError as error:
            problem = f"{text!r:.80} does not list values ({reason(error)})"
            raise ConfigError(problem, key="--grid", cure=cure) from None
        if key in axes:
            raise ConfigError("two --grid have values for it", key=key, cure="put them into one")
        _refuse_own(key)
        axes[key] = listed
    return axes


def left_out(runs: Sequence[Settings], grid: Sequence[str]) -> list[str]:
    """A line for each setting of the grid that some runs have no use for."""
    lines = []
    for key in read_grid(grid):
        names = [str(run.run.name) for run in runs if not uses(run, key)]
        if names:
            some = ", ".join([*names[:4], *(["..."] if len(names) > 4 else [])])
            count = f"{len(names)} of {plural(len(runs), 'run')}"
            lines.append(f"{key} is left out of {count}, where it has no use: {some}")
    return lines


class _Combination(NamedTuple):
    """A variant and a point of the grid."""

    chosen: dict[str, str | None]
    """What tells it from others."""
    problems: dict[str, ConfigError]
    """What is wrong with it, by its text."""


def _problems(found: Sequence[_Combination]) -> list[ConfigError]:
    """What is wrong, each once. What only some runs have names what these have in common."""
    problems = []
    for text, problem in {text: p for one in found for text, p in one.problems.items()}.items():
        having = [one.chosen for one in found if text in one.problems]
        common = [
            f"{key}={value}"
            for key, value in having[0].items()
            if key != problem.key
            and all(chosen[key] == value for chosen in having)
            and any(one.chosen[key] != value for one in found)
        ]
        where = f" (with {', '.join(common)})" if common else ""
        problems.append(
            ConfigError(f"{problem.problem}{where}", key=problem.key, cure=problem.cure)
        )
    return problems


def _refuse_own(key: str) -> None:
    if key in INSTEAD:
        raise ConfigError("it does not hold for a whole sweep", key=key, cure=INSTEAD[key])


def _rounds(named: Sequence[str] | None, seeds: int | None) -> Sequence[int]:
    """A number for each seed: its place among those that are named, or what is added to run.seed.

    Raises:
        ConfigError: there are too many, or two numbers of them.
    """
    count = SEEDS if seeds is None else seeds
    if named is not None:
        if seeds not in (None, 1):
            problem = f"the grid names the seeds, and {seeds} of each are asked for"
            raise ConfigError(problem, key="--seeds", cure="leave it out")
        count = len(named)
    if count > MOST_SEEDS:
        raise ConfigError(f"{count} are too many", key="--seeds", cure=f"give at most {MOST_SEEDS}")
    return range(count)


def _names(config: Path, variants: str | None) -> Sequence[str | None]:
    if variants is None:
        return list_variants(config) or (None,)
    names = [name.strip() for name in variants.split(",")]
    if "" in names:
        raise ConfigError(
            f"{variants!r:.80} has a comma without a name", key="--variants", cure="remove it"
        )
    return names


def _placed(settings: Settings, point: Point, folder: Path) -> Settings:
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
    label = str(run.label)
    name = point_name(label, point)
    if tracking.group == wandb_group(label):  # nobody asked for another
        tracking = tracking.model_copy(update={"group": wandb_group(name)})
    own = folder_name(name, f"-s{run.seed}")
    run = run.model_copy(update={"name": own, "dir": str(folder / own)})
    return settings.model_copy(update={"run": run, "tracking": tracking})


def _refuse_shared(places: Sequence[str]) -> None:
    """Refuse two runs in one folder, also where a disk takes a for A."""
    folded = [place.casefold() for place in places]
    for place in places:
        if folded.count(place.casefold()) > 1:
            raise ConfigError(
                f"two runs would have the directory {place}",
                key="run.label",
                cure="leave run.label to the sweep, or rename a variant",
            )


def _identity(settings: Settings) -> str:
    """Equal for runs that compute the same under the same label.

    Addresses that differ in user, password or query, perhaps a signature, are one place.
    """
    values, own = shown_tree(values_by_key(settings)), ("run.name", "run.dir", "variant")
    return repr([value for key, value in values.items() if key not in own])

"""From a YAML file and ``section.key=value`` arguments to a valid tree of settings.

Precedence: defaults < W&B's variables < file < the file's chosen variant < command line. Everything
that is wrong is reported in one error.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import ValidationError

from rwp_dist.base.errors import ConfigError, SettingsError
from rwp_dist.config.checks import conflicts
from rwp_dist.config.keys import setting_of, unknown_setting
from rwp_dist.config.names import folder_name, wandb_group
from rwp_dist.config.sources import (
    VARIABLES,
    Assignment,
    flatten,
    read_file,
    read_overrides,
    read_variables,
    read_variants,
)
from rwp_dist.config.tree import Settings
from rwp_dist.config.unused import uses

Tree = dict[str, Any]


def load_settings(path: str | Path | None, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a YAML file (None: the defaults) with ``section.key=value`` overrides.

    Args:
        path: the settings file.
        overrides: later ones win.

    Raises:
        ConfigError: the file cannot be read.
        SettingsError: settings are wrong; its ``problems`` are all of them.
    """
    settings, problems = read_settings(path, overrides)
    if problems:
        raise SettingsError(source_name(path), problems)
    return settings


def source_name(path: str | Path | None) -> str:
    """What messages call the source of settings."""
    return str(path) if path else "the defaults"


def read_settings(
    path: str | Path | None, overrides: Sequence[str] = (), swept: Sequence[str] = ()
) -> tuple[Settings, list[ConfigError]]:
    """The same with wrong values replaced by their defaults, and all that is wrong.

    Args:
        path: the settings file.
        overrides: later ones win.
        swept: more of them; those that the run has no use for (``unused_keys``) are left out.

    Raises:
        ConfigError: the file cannot be read.
    """
    problems: list[ConfigError] = []
    source = source_name(path)
    content = read_file(path) if path else {}
    variants = read_variants(content.pop("variants", None), problems)
    in_file = flatten(content, problems)
    given = read_overrides(overrides, problems)

    name = dict(in_file + given).get("variant")
    chosen: list[Assignment] = []
    if isinstance(name, str) and name in variants:
        chosen = variants[name]
    elif name is not None:
        problems.append(_no_variant(name, variants, source))
        in_file, given = _without_variant(in_file), _without_variant(given)

    variables, stated = read_variables(os.environ), [*in_file, *chosen, *given]
    if axes := read_overrides(swept, problems):
        wrong: list[ConfigError] = []
        likely = _validate(_build_tree([*variables, *stated, *axes], []), wrong)
        left_out = {key for key, _ in axes if not uses(likely, key)}
        problems += [problem for problem in wrong if problem.key in left_out]
        stated += [(key, value) for key, value in axes if key not in left_out]
    tree = _build_tree([*variables, *stated], problems)
    settings = _validate(tree, problems)
    found = list(problems)
    for conflict in conflicts(settings):
        if not depends_on(conflict.keys, found):
            problems.append(ConfigError(conflict.problem, key=conflict.keys[0], cure=conflict.cure))
    if problems:
        unstated = dict(variables).keys() - dict(stated).keys()
        problems = [_of_variable(p) if p.key in unstated else p for p in problems]
    return _fill_in_names(settings, path), problems


def list_variants(path: str | Path) -> tuple[str, ...]:
    """Names of the variants that a settings file offers, in its order.

    Raises:
        ConfigError: the file cannot be read.
    """
    return tuple(read_variants(read_file(path).get("variants"), []))


def _no_variant(name: Any, known: Iterable[str], source: str) -> ConfigError:
    names = ", ".join(known)
    problem = (
        f"there is no variant {name!r:.80} in {source}" if names else f"{source} has no variants"
    )
    cure = f"choose one of {names}" if names else "remove it"
    return ConfigError(problem, key="variant", cure=cure)


def _without_variant(assignments: list[Assignment]) -> list[Assignment]:
    return [(key, value) for key, value in assignments if key != "variant"]


def _build_tree(assignments: Iterable[Assignment], problems: list[ConfigError]) -> Tree:
    """Nested sections from assignments; later ones win. An unknown key is a problem."""
    tree: Tree = {}
    for key, value in assignments:
        if setting_of(key) is None:
            problems.append(unknown_setting(key))
            continue
        *path, last = key.split(".")
        branch = tree
        for part in path:
            if not isinstance(branch.get(part), dict):
                branch[part] = {}
            branch = branch[part]
        branch[last] = value
    return tree


def _validate(tree: Tree, problems: list[ConfigError]) -> Settings:
    """The settings of a tree; wrong values are reported and replaced by their defaults."""
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        # Of several wrong elements of one list, the first is reported.
        wrong: dict[tuple[Any, ...], ConfigError] = {}
        for found in error.errors():
            if found["type"] == "default_factory_not_called":
                continue  # follows from another error of the section
            path = _path_of(found["loc"], tree)
            wrong.setdefault(path, _not_allowed(path, found["input"], found["msg"]))
        problems += wrong.values()
        for path in wrong:
            _remove(tree, path)
        return Settings.model_validate(tree)


def _not_allowed(path: tuple[Any, ...], value: Any, message: str) -> ConfigError:
    """The error of a value, from pydantic's message about it."""
    key = ".".join(map(str, path))  # a key in data.mix may be a number
    rule = message.removeprefix("Value error, ").replace("Input should", "it should")
    rule = rule.partition(", unable to parse")[0]
    rule = rule.replace("a valid number", "a number").replace("a valid integer", "a whole number")
    rule = rule.replace("a valid tuple", "a list, such as [a,b]")
    rule = rule.replace("a valid string", "text, in quotes where it looks like a number")
    setting = setting_of(key)
    meaning = setting.meaning.partition(". ")[0].rstrip(".").replace("``", "`") if setting else ""
    if setting and get_origin(setting.field.annotation) is Literal:
        meaning = meaning if "|" not in meaning else ""  # the rule lists the names already
    cure = f"{rule} ({meaning})" if meaning else rule
    return ConfigError(f"{value!r:.80} is not allowed", key=key, cure=cure)


def _of_variable(error: ConfigError) -> ConfigError:
    """The error of a value that a variable gave."""
    cure = f"{error.cure}; the value is from {VARIABLES[str(error.key)]}"
    return ConfigError(error.problem, key=error.key, cure=cure)


def _path_of(location: tuple[Any, ...], tree: Tree) -> tuple[Any, ...]:
    """The keys of an error's location, without positions in a list."""
    path: list[Any] = []
    branch: Any = tree
    for part in location:
        if not isinstance(branch, dict) or part not in branch:
            break
        path.append(part)
        branch = branch[part]
    return tuple(path)


def _remove(tree: Tree, path: tuple[Any, ...]) -> None:
    *sections, last = path
    for section in sections:
        tree = tree[section]
    del tree[last]


def depends_on(keys: Iterable[str], problems: Iterable[ConfigError]) -> bool:
    """Whether one of the settings, or a section around it, is among those that are wrong."""
    wrong = [problem.key for problem in problems if problem.key]
    return any(_overlap(key, other) for key in keys for other in wrong)


def _overlap(key: str, other: str) -> bool:
    """Whether one key is the other, or a section around it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _fill_in_names(settings: Settings, path: str | Path | None) -> Settings:
    """Label, name, folder and W&B group of a run that does not state them.

    Runs of two settings files have different folders. A run with an identity of its own, as
    `wandb agent` gives it, gets a folder of its own, and the group of those with the same settings
    but the seed.
    """
    run, tracking = settings.run, settings.tracking
    label = run.label or settings.variant or settings.method.name
    own = f"-{tracking.id}" if tracking.id else ""
    name = run.name or f"{label}-s{run.seed}{own}"
    own_folder = folder_name(run.name) if run.name else folder_name(label, f"-s{run.seed}{own}")
    folder = run.dir or str(Path("runs", Path(path).stem if path else "", own_folder))
    group = tracking.group or wandb_group(f"{label}-{_digest(settings)}" if own else label)
    run = run.model_copy(update={"label": label, "name": name, "dir": folder})
    tracking = tracking.model_copy(update={"group": group})
    return settings.model_copy(update={"run": run, "tracking": tracking})


def _digest(settings: Settings) -> str:
    """Equal for settings that differ in the seed and in what no result depends on."""
    values = settings.model_dump(mode="json", exclude={"run", "tracking", "variant"})
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:6]

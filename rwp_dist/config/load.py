"""From YAML and ``a.b=c`` to a validated tree, or to one message with every error in it.

Precedence: defaults < file < the file's chosen variant < command line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rwp_dist.base.errors import ConfigError
from rwp_dist.config.checks import combinations
from rwp_dist.config.keys import is_within_setting, meaning, nearest, sections
from rwp_dist.config.tree import Settings


def load_settings(path: str | Path | None, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a YAML file with ``section.key=value`` overrides.

    Raises:
        ConfigError: everything wrong with them, each with its cure, in one message.
    """
    source = str(path) if path else "the defaults"
    problems: list[str] = []
    raw = _text_keys(_read_yaml(path) if path else {}, "", problems)
    variants = _read_variants(raw.pop("variants", None), problems)
    given, wrong = _read_overrides(overrides, problems)

    variant = given.get("variant", raw.get("variant"))
    if variant is not None:
        if not isinstance(variant, str) or variant not in variants:
            known = ", ".join(variants)
            problems.append(
                f"variant: {source} has no variant {variant!r}; "
                + (f"choose one of {known}." if known else "it lists none.")
            )
            raw.pop("variant", None)
            given.pop("variant", None)
        else:
            for key, value in _flatten(variants[variant]):
                problems += _set(raw, key, value)
    for key, value in _flatten(given):
        problems += _set(raw, key, value)
    return _validate(raw, problems, wrong, source)


def list_variants(path: str | Path) -> tuple[str, ...]:
    """Names of the variants that a settings file offers, in its order."""
    return tuple(_read_variants(_text_keys(_read_yaml(path), "", []).get("variants"), []))


def dump_settings(settings: Settings) -> str:
    """The resolved settings as YAML that ``load_settings`` reads back unchanged."""
    tree = settings.model_dump(by_alias=True, mode="json", exclude={"variant"})
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def get_setting(settings: Settings, key: str) -> Any:
    """The value of a dotted key.

    Raises:
        ConfigError: there is no such setting.
    """
    tree = settings.model_dump(by_alias=True, mode="json")
    for name, value in _flatten(tree):
        if name == key:
            return value
    raise ConfigError(f"{key}: unknown setting{_suggest(key)}")


@dataclass(frozen=True)
class Difference:
    """A setting that has another value in another tree."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.old!r} -> {self.new!r}"


def differences(old: Settings, new: Settings) -> list[Difference]:
    """Every setting whose value differs, by key; ``variant``, a name of others, is left out."""
    a, b = (
        dict(_flatten(s.model_dump(by_alias=True, mode="json", exclude={"variant"})))
        for s in (old, new)
    )
    return [
        Difference(key, a.get(key), b.get(key))
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; see configs/ for examples.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}).") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: wants sections such as `method:`, found {raw!r}.")
    return raw


def _text_keys(value: Any, key: str, problems: list[str]) -> Any:
    """A copy of what a file or an override says, less the keys that are no text."""
    if isinstance(value, list):
        return [_text_keys(item, key, problems) for item in value]
    if not isinstance(value, dict):
        return value
    tree = {}
    for name, item in value.items():
        path = f"{key}.{name}" if key else str(name)
        if isinstance(name, str):
            tree[name] = _text_keys(item, path, problems)
        else:
            problems.append(f"{path}: the key {name!r} is no text; name a setting, or quote it.")
    return tree


def _read_variants(value: Any, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Settings by the variant's name; what is none of that counts as empty."""
    if not isinstance(value, dict | None):
        problems.append(f"variants: {value!r} will not do; write name: {{section.key: value}}.")
    variants = {}
    for name, settings in value.items() if isinstance(value, dict) else ():
        if not isinstance(settings, dict | None):
            problems.append(
                f"variants.{name}: {settings!r} will not do; write {name}: {{section.key: value}}."
            )
        variants[name] = settings if isinstance(settings, dict) else {}
    return variants


def _read_overrides(
    overrides: Sequence[str], problems: list[str]
) -> tuple[dict[str, Any], set[str]]:
    """Values by key, the last one counts; and the keys whose values cannot be read."""
    given: dict[str, Any] = {}
    wrong: set[str] = set()
    for text in overrides:
        key, equals, words = text.partition("=")
        if not equals or not key:
            problems.append(f"{text!r} is no setting; write section.key=value.")
            continue
        try:
            value = yaml.safe_load(words)
        except (yaml.YAMLError, ValueError):  # ValueError: what looks like a date and is none
            problems.append(f"{text!r}: the value is no valid YAML; quote it.")
            wrong.add(key)
            continue
        if key in sections() and (not value or not isinstance(value, dict)):
            problems.append(_is_section(key, value))
            wrong.add(key)
        elif key == "variant" and value is not None:
            given[key] = value if isinstance(value, str) else words  # 2 and off are names, too
        else:
            given[key] = _text_keys(value, key, problems)
    return given, wrong


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a setting that is a mapping is one value."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and not is_within_setting(name):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value


def _set(raw: dict[str, Any], key: str, value: Any) -> list[str]:
    """Put one dotted key into the tree; a list with what was wrong with it."""
    if key in sections():  # not a mapping with something in it, or it were flat
        return [] if value is None or value == {} else [_is_section(key, value)]
    *path, last = key.split(".")
    branch = raw
    for section in path:
        if branch.get(section) is None:
            branch[section] = {}
        branch = branch[section]
        if not isinstance(branch, dict):
            return [f"{key}: {section} is a value, not a section{_suggest(key)}"]
    branch[last] = value
    return []


def _validate(raw: dict[str, Any], problems: list[str], wrong: set[str], source: str) -> Settings:
    raw = {k: {} if v is None and k in sections() else v for k, v in raw.items()}
    settings: Settings | None = None
    # Wrong values are reported and left out, until the rest makes a tree: combinations are then
    # checked on that, so that one message holds every error.
    while settings is None:
        try:
            settings = Settings.model_validate(raw)
        except ValidationError as error:
            # Two elements of a list may be wrong, and it is left out as a whole: the first counts.
            found: dict[tuple[str, ...], dict[str, Any]] = {}
            for item in error.errors():
                found.setdefault(_in_tree(raw, item["loc"]), dict(item))
            for location, about in found.items():
                key = ".".join(location)
                wrong.add(key)
                problems.append(_explain(key, about))
                _drop(raw, location)
    for keys, message in combinations(settings):
        if not any(_overlap(key, other) for key in keys for other in wrong):
            problems.append(message)
    if problems:
        count = f"{len(problems)} errors" if len(problems) > 1 else "1 error"
        raise ConfigError(f"{source}: {count}\n" + "\n".join(f"  - {p}" for p in problems))
    return _name(settings)


def _overlap(key: str, other: str) -> bool:
    """Whether one key is the other, or a section around it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _name(settings: Settings) -> Settings:
    """Label, name, folder and group of a run that does not state them."""
    run, tracking = settings.run, settings.tracking
    label = run.label or settings.variant or settings.method.name
    name = run.name or f"{label}-s{run.seed}"
    folder = run.dir or f"runs/{name}"
    run = run.model_copy(update={"label": label, "name": name, "dir": folder})
    tracking = tracking.model_copy(update={"group": tracking.group or label})
    return settings.model_copy(update={"run": run, "tracking": tracking})


def _in_tree(raw: dict[str, Any], loc: tuple[Any, ...]) -> tuple[str, ...]:
    """The part of an error's location that names a key (not an element of a list)."""
    keys: list[str] = []
    branch: Any = raw
    for part in loc:
        if not isinstance(branch, dict) or part not in branch:
            break
        keys.append(str(part))
        branch = branch[part]
    return tuple(keys)


def _drop(raw: dict[str, Any], location: tuple[str, ...]) -> None:
    branch = raw
    for key in location[:-1]:
        branch = branch[key]
    del branch[location[-1]]


def _explain(key: str, item: dict[str, Any]) -> str:
    value = item["input"]
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown setting{_suggest(key)}"
    if item["type"] == "model_type":
        return _is_section(key, value)
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{key}: {value!r} will not do: {message}{_meaning(key)}"


def _is_section(key: str, value: Any) -> str:
    return f"{key}: is a section; write {key}.<key>, not {key}: {value!r}."


def _meaning(key: str) -> str:
    text = meaning(key)
    return f" ({text.rstrip('.')})." if text else "."


def _suggest(key: str) -> str:
    near = nearest(key)
    return f"; did you mean {near}?" if near else "; `rwp-dist settings` lists all."

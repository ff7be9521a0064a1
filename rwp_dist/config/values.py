"""The values of a tree of settings by dotted key: to read one, to write all, to compare two."""

from dataclasses import dataclass
from typing import Any

import yaml

from rwp_dist.base.urls import shown_tree
from rwp_dist.config.keys import sections, unknown_setting
from rwp_dist.config.tree import Settings


def dump_settings(settings: Settings) -> str:
    """The settings as YAML that ``load_settings`` reads back unchanged, but for secrets in URLs."""
    tree = shown_tree(settings.model_dump(by_alias=True, mode="json", exclude={"variant"}))
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def get_setting(settings: Settings, key: str) -> Any:
    """The value of a dotted key.

    Raises:
        ConfigError: there is no such setting.
    """
    values = values_by_key(settings)
    if key not in values:
        raise unknown_setting(key)
    return values[key]


def values_by_key(settings: Settings) -> dict[str, Any]:
    """Every value by its dotted key, such as ``{"method.sigma": 0.3, ...}``."""
    values: dict[str, Any] = {}
    for name, value in settings.model_dump(by_alias=True, mode="json").items():
        if name in sections():
            values |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            values[name] = value
    return values


@dataclass(frozen=True)
class Difference:
    """A setting that has different values in two trees."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.old!r} -> {self.new!r}"


def differences(old: Settings, new: Settings) -> list[Difference]:
    """Every setting whose value differs, by key.

    ``variant`` is left out: it only names values that other settings have. Secrets in URLs, which
    no file keeps, do not count.
    """
    before, after = (shown_tree(values_by_key(settings)) for settings in (old, new))
    return [
        Difference(key, before[key], after[key])
        for key in sorted(before.keys() - {"variant"})
        if before[key] != after[key]
    ]

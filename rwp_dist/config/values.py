"""The values of a tree of settings by dotted key: to read one, to write all."""

from typing import Any

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.urls import shown_tree
from rwp_dist.config.document import dump_document
from rwp_dist.config.keys import sections, unknown_setting
from rwp_dist.config.tree import Settings


def dump_settings(settings: Settings) -> str:
    """The settings as YAML that ``load_settings`` reads back unchanged, but for secrets in URLs."""
    tree = shown_tree(settings.model_dump(by_alias=True, mode="json", exclude={"variant"}))
    return dump_document(tree)


def get_setting(settings: Settings, key: str) -> Any:
    """The value of a dotted key.

    Raises:
        ConfigError: there is no such setting, or it is a section.
    """
    values = values_by_key(settings)
    if key in sections():
        example = next(name for name in values if name.startswith(f"{key}."))
        raise ConfigError(
            f"{key} is a section of settings", cure=f"name one of it, such as {example}"
        )
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

"""Where settings come from: W&B's variables, a YAML file, its variants and the command line.

Each source becomes a list of assignments, ``("method.sigma", 0.1)``, in the order in which they
apply. What is wrong is added to ``problems``, so that one message can report all of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rwp_dist.base.errors import ConfigError
from rwp_dist.config.keys import sections

Assignment = tuple[str, Any]

VARIABLES = {
    "tracking.project": "WANDB_PROJECT",
    "tracking.entity": "WANDB_ENTITY",
    "tracking.name": "WANDB_NAME",
    "tracking.group": "WANDB_RUN_GROUP",
    "tracking.tags": "WANDB_TAGS",
    "tracking.notes": "WANDB_NOTES",
    "tracking.id": "WANDB_RUN_ID",
}
"""Settings, and W&B's variables that are their defaults. A file or a command line wins."""


def read_variables(environ: Mapping[str, str]) -> list[Assignment]:
    """The assignments of W&B's variables; an empty variable assigns nothing."""
    given = {key: environ[name] for key, name in VARIABLES.items() if environ.get(name)}
    tags = [tag.strip() for tag in given.pop("tracking.tags", "").split(",") if tag.strip()]
    return [*given.items(), *([("tracking.tags", tags)] if tags else [])]


def read_file(path: str | Path) -> dict[str, Any]:
    """The content of a settings file.

    Raises:
        ConfigError: the file is missing, cannot be read, or does not hold sections.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file", cure="see configs/ for examples"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error})", cure="name a text file of yours"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path}: not valid YAML ({' '.join(str(error).split())})", cure="correct that line"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: holds {content!r}, no settings", cure="write sections such as `method:`"
        )
    return content


def read_variants(value: Any, problems: list[ConfigError]) -> dict[str, list[Assignment]]:
    """The assignments of each variant, by its name; a wrong variant assigns nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        problems.append(_not_a_mapping("variants", value, "name"))
        return {}
    variants: dict[str, list[Assignment]] = {}
    for name, content in value.items():
        if not isinstance(name, str):
            problems.append(_not_text(f"variants.{name}", name))
        elif content is not None and not isinstance(content, dict):
            problems.append(_not_a_mapping(f"variants.{name}", content, name))
            variants[name] = []
        else:
            variants[name] = list(flatten(content or {}, problems))
    return variants


def read_overrides(overrides: Sequence[str], problems: list[ConfigError]) -> list[Assignment]:
    """Assignments of ``section.key=value`` arguments; values are YAML."""
    given: list[Assignment] = []
    for text in overrides:
        key, equals, words = text.partition("=")
        if not equals or not key:
            problems.append(ConfigError(f"{text!r} sets nothing", cure="write section.key=value"))
            continue
        try:
            value = yaml.safe_load(words)
        except (yaml.YAMLError, ValueError):  # ValueError: a date with a 13th month
            problems.append(ConfigError(f"{words!r} is not valid YAML", key=key, cure="quote it"))
            continue
        if key == "variant" and value is not None and not isinstance(value, str):
            value = words  # a variant may be called 2 or off
        if key in sections() and isinstance(value, dict) and value:
            given += flatten({key: value}, problems)
        elif key in sections():  # an empty section is fine in a file, but a mistake here
            problems.append(is_a_section(key, value))
        else:
            given.append((key, value))
    return given


def flatten(
    tree: dict[Any, Any], problems: list[ConfigError], prefix: str = ""
) -> Iterator[Assignment]:
    """The assignments of nested sections; a setting that is itself a mapping stays one value."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if not isinstance(key, str):
            problems.append(_not_text(name, key))
        elif name not in sections():
            yield name, value
        elif isinstance(value, dict):
            yield from flatten(value, problems, f"{name}.")
        elif value is not None:
            problems.append(is_a_section(name, value))


def is_a_section(key: str, value: Any) -> ConfigError:
    """The error of a section that is given a value."""
    return ConfigError(
        f"a section cannot have the value {value!r}", key=key, cure=f"write {key}.<key>=value"
    )


def _not_text(name: str, key: Any) -> ConfigError:
    return ConfigError(f"the key {key!r} is not text", key=name, cure="name a setting, or quote it")


def _not_a_mapping(key: str, value: Any, name: str) -> ConfigError:
    return ConfigError(
        f"{value!r} is not a mapping", key=key, cure=f"write {name}: {{section.key: value}}"
    )

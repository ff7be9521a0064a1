"""Where settings come from: W&B's variables, a YAML file, its variants and the command line.

Each source becomes a list of assignments, ``("method.sigma", 0.1)``, in the order in which they
apply. What is wrong is added to ``problems``, so that one message can report all of it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from rwp_dist.base import files
from rwp_dist.base.errors import ConfigError
from rwp_dist.config.document import parse_document, reason
from rwp_dist.config.keys import sections

Assignment = tuple[str, Any]

MOST_BYTES = 1 << 18
"""Of a settings file."""

AS_WRITTEN = (
    *("variant", "run.dir", "data.train", "data.val", "data.cache_dir"),
    *("model.init", "loss.teacher"),
)
"""Settings whose values on a command line are names and paths, of which YAML may make anything."""
NO_VALUE = ("null", "~")

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
        content = parse_document(files.read_file(Path(path), MOST_BYTES))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file", cure="see configs/ for examples"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror})", cure="name a text file of yours"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path}: not valid YAML ({reason(error)})", cure="correct that line"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: holds {content!r:.80}, no settings", cure="write sections such as `method:`"
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
            variants[name] = flatten(content or {}, problems)
    return variants


def read_overrides(overrides: Sequence[str], problems: list[ConfigError]) -> list[Assignment]:
    """Assignments of ``section.key=value`` arguments; values are YAML, but for ``AS_WRITTEN``."""
    given: list[Assignment] = []
    for text in overrides:
        key, equals, words = text.partition("=")
        if not equals or not key:
            problems.append(
                ConfigError(f"{text!r:.80} sets nothing", cure="write section.key=value")
            )
            continue
        try:
            value = _as_written(words) if key in AS_WRITTEN else parse_document(words)
            if key not in AS_WRITTEN and (why := _why_nothing(words, value)):
                raise yaml.YAMLError(why)
        except yaml.YAMLError as error:
            problem = f"{words!r:.80} is not valid YAML ({reason(error)})"
            problems.append(ConfigError(problem, key=key, cure="correct it, or put it in quotes"))
            continue
        if key in sections() and isinstance(value, dict) and value:
            given += flatten({key: value}, problems)
        elif key in sections():  # an empty section is fine in a file, but a mistake here
            problems.append(is_a_section(key, value))
        else:
            given.append((key, value))
    return given


def _why_nothing(words: str, value: Any) -> str | None:
    """Why a part of a value means nothing to YAML; None: all of it counts."""
    with suppress(yaml.YAMLError):
        if "#" in words and value == parse_document(words.partition("#")[0]):
            return "what follows # is a comment"
    if value in (None, "") and words.strip() not in ("", "~", "null", "Null", "NULL", "''", '""'):
        return "it means nothing there"
    return None


def _as_written(words: str) -> Any:
    """A name or a path as it is written, such as ``2``, ``true`` or ``a: b``; None: no value.

    Raises:
        yaml.YAMLError: it begins with a quote that does not end.
    """
    name = words.strip()
    return parse_document(name) if name[:1] in ("", "'", '"') or name in NO_VALUE else name


def flatten(
    tree: dict[Any, Any], problems: list[ConfigError], prefix: str = ""
) -> list[Assignment]:
    """The assignments of nested sections; a setting that is itself a mapping stays one value.

    Parts of such a mapping, ``data.mix.a``, come after it: the order in a file does not matter.
    """
    found: list[Assignment] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if not isinstance(key, str):
            problems.append(_not_text(name, key))
        elif name not in sections():
            found.append((name, value))
        elif isinstance(value, dict):
            found += flatten(value, problems, f"{name}.")
        elif value is not None:
            problems.append(is_a_section(name, value))
    return sorted(found, key=lambda assignment: assignment[0].count("."))


def is_a_section(key: str, value: Any) -> ConfigError:
    """The error of a section that is given a value."""
    return ConfigError(
        f"a section cannot have the value {value!r:.80}", key=key, cure=f"write {key}.<key>=value"
    )


def _not_text(name: str, key: Any) -> ConfigError:
    return ConfigError(
        f"the key {key!r:.80} is not text", key=name, cure="name a setting, or quote it"
    )


def _not_a_mapping(key: str, value: Any, name: str) -> ConfigError:
    return ConfigError(
        f"{value!r:.80} is not a mapping", key=key, cure=f"write {name}: {{section.key: value}}"
    )

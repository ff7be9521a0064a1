"""Where weights are that a run does not make, and what tells them from others.

Those of ``model.init`` and ``loss.teacher``. Imports no torch.
"""

import hashlib
from pathlib import Path

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.base.urls import local_path
from rwp_dist.config import LIBRARIES, TIMM, Settings
from rwp_dist.record.directory import RunDir

INIT, TEACHER = "model.init", "loss.teacher"
NO_TEACHER = "none"
"""``loss.teacher.id`` of a run without one."""
KINDS = "name a .pt, .pth or .safetensors file, a run directory, torchvision:DEFAULT, or timm:NAME"

ID_DIGITS = 16
"""Hexadecimal digits of a file's sha256 in an identity."""
PIECE_BYTES = 2**24


def weights_file(place: str, key: str) -> Path | None:
    """The file of weights; of a run's directory its newest checkpoint, and of an export its own.

    None: a library has them.

    Args:
        place: the value of a setting.
        key: the setting, for messages.

    Raises:
        ConfigError: there is no such file.
    """
    if place.startswith(LIBRARIES):
        return None
    path = local_path(place)
    if path is None or not path.exists():
        where = "is an address" if path is None else "is not there"
        raise ConfigError(f"{place} {where}", key=key, cure=KINDS)
    if not path.is_dir():
        return path
    if (exported := path / "model.safetensors").is_file():
        return exported
    try:
        return RunDir(path).newest_checkpoint()
    except RwpError as error:
        raise ConfigError(error.problem, key=key, cure=KINDS) from error


def weights_id(path: Path, key: str) -> str:
    """It changes with any byte of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be read ({why})", key=key, cure=KINDS) from error
    return digest.hexdigest()[:ID_DIGITS]


def init_file(settings: Settings) -> Path | None:
    """The file that a new run begins from. None: it goes on, or needs none, or a library has it.

    Raises:
        ConfigError: there is no such file.
    """
    if settings.model.init is None or RunDir(str(settings.run.dir)).has_checkpoint():
        return None
    return weights_file(settings.model.init, INIT)


def teacher_file(settings: Settings) -> Path | None:
    """The file of the teacher's weights. None: there is no teacher, or a library has them.

    Raises:
        ConfigError: there is no such file, or it is not known what network it is of.
    """
    place, model = settings.loss.teacher, settings.loss.teacher_model
    if place is None:
        return None
    path = local_path(place)
    is_run = path is not None and path.is_dir() and not place.startswith(LIBRARIES)
    if is_run and path is not None and not RunDir(path).config.is_file():
        raise ConfigError(
            f"{place} is no run directory (no config.yaml there)",
            key=TEACHER,
            cure="name a run's directory, or a file of weights",
        )
    if is_run and model is not None:
        raise ConfigError(
            f"{place} is a run, which has a network of its own",
            key="loss.teacher_model",
            cure="set it to null, or loss.teacher to a file of weights",
        )
    file = weights_file(place, TEACHER)
    if model is None and not is_run and not place.startswith(TIMM):
        raise ConfigError(
            f"{place} does not say what network it is of",
            key=TEACHER,
            cure="set loss.teacher_model to its name, such as resnet50",
        )
    return file


def teacher_identity(settings: Settings) -> dict[str, str]:
    """``loss.teacher.id``, which changes with any byte of its file; empty without a teacher.

    Raises:
        ConfigError: it cannot be read.
    """
    place, path = settings.loss.teacher, teacher_file(settings)
    if place is None:
        return {}
    return {"loss.teacher.id": place if path is None else weights_id(path, TEACHER)}

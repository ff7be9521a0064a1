"""Where the weights of ``loss.teacher`` are, and what tells them from others. Imports no torch."""

import hashlib
from pathlib import Path

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.base.urls import local_path
from rwp_dist.config import LIBRARIES, Settings
from rwp_dist.record.directory import RunDir

NO_TEACHER = "none"
"""``loss.teacher.id`` of a run without one."""

ID_DIGITS = 16
PIECE_BYTES = 2**24


def teacher_file(settings: Settings) -> Path | None:
    """The file of the teacher's weights; of a run's directory its newest checkpoint.

    None: there is no teacher, or a library has its weights.

    Raises:
        ConfigError: there is no such file, or it is not known what network it is of.
    """
    place, model = settings.loss.teacher, settings.loss.teacher_model
    if place is None:
        return None
    if place.startswith(LIBRARIES):
        if model is None and place.startswith(LIBRARIES[0]):
            raise ConfigError(
                f"{place} does not say what network it is of",
                key="loss.teacher",
                cure="set loss.teacher_model to its name, such as resnet50",
            )
        return None
    path = local_path(place)
    if path is None or not path.exists():
        where = "is an address" if path is None else "is not there"
        raise ConfigError(
            f"{place} {where}",
            key="loss.teacher",
            cure="name a run's directory, or a file of weights on this machine",
        )
    if path.is_file():
        if model is None:
            raise ConfigError(
                f"{place} is a file, which does not say what network it is of",
                key="loss.teacher",
                cure="set loss.teacher_model to its name",
            )
        return path
    run = RunDir(path)
    if not run.config.is_file():
        raise ConfigError(
            f"{place} is no run directory (no config.yaml there)",
            key="loss.teacher",
            cure="name a run's directory, or a file of weights",
        )
    if model is not None:
        raise ConfigError(
            f"{place} is a run, which has a network of its own",
            key="loss.teacher_model",
            cure="set it to null, or loss.teacher to a file of weights",
        )
    try:
        return run.newest_checkpoint()
    except RwpError as error:
        raise ConfigError(error.problem, key="loss.teacher", cure=error.cure) from error


def teacher_identity(settings: Settings) -> dict[str, str]:
    """``loss.teacher.id``, which changes with any byte of its file; empty without a teacher.

    Raises:
        ConfigError: it cannot be read.
    """
    path = teacher_file(settings)
    if path is None:
        place = settings.loss.teacher
        return {} if place is None else {"loss.teacher.id": place}
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror})",
            key="loss.teacher",
            cure="set it to a file that every node can read",
        ) from error
    return {"loss.teacher.id": digest.hexdigest()[:ID_DIGITS]}

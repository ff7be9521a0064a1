"""The frozen network that a run distils from (``loss.teacher``)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import TIMM, Settings, load_settings
from rwp_dist.data.classes import Classes
from rwp_dist.data.image import Normalise
from rwp_dist.engine.precision import autocast
from rwp_dist.record.weights import teacher_file
from rwp_dist.run.checkpoint import read_checkpoint
from rwp_dist.run.evaluate import load_network
from rwp_dist.run.fitting import fit_weights
from rwp_dist.run.initial import find_weights
from rwp_dist.run.models import build_model
from rwp_dist.run.trial import try_network


class Teacher:
    """Logits of a frozen network. It has no part in the run's checkpoints.

    Raises:
        ConfigError: it does not fit the run's images or classes, or its file another network.
        CheckpointError: its file is damaged.
        DataError: labels mean something else in its run.
    """

    def __init__(
        self, settings: Settings, device: torch.device, classes: Classes | None = None
    ) -> None:
        """``classes``: of the run's training data, if they are known."""
        own = teacher_settings(settings)
        _check_fit(settings, own)
        pixels = own.data.mean, own.data.std
        if own.model.init is None:
            path = teacher_file(settings)
            assert path is not None, "it is a run, which has a file"
            model = load_network(own, path, device)
            kept = read_checkpoint(path)["parts"].get("history", {}).get("classes")
            if kept is not None and classes is not None:
                Classes.from_state(kept).joined(classes)
        else:
            model = build_model(own, device)
            pixels = _load(model, own) or pixels
        self._model = model.eval().requires_grad_(False)
        with _of_teacher():
            sizes = settings.data.train_sizes
            try_network(self._model, settings.model_copy(update={"model": own.model}), sizes=sizes)
        self._normalise = Normalise(*pixels)
        self._precision = settings.precision

    def __call__(self, images: Tensor) -> Tensor:
        """fp32 ``[B, num_classes]`` of images ``[B, C, H, W]``, uint8 or floats in 0..255."""
        with torch.no_grad(), autocast(images.device, self._precision):
            logits: Tensor = self._model(self._normalise(images))
        return logits.float()


@contextmanager
def _of_teacher() -> Iterator[None]:
    """Have errors about a network name the teacher."""
    try:
        yield
    except ConfigError as error:
        cure = "name a teacher that does, or leave loss.teacher out"
        if error.key == "model.init":
            cure = error.cure or cure
        raise ConfigError(error.problem, key="loss.teacher", cure=cure) from error


def teacher_settings(settings: Settings) -> Settings:
    """Those of the teacher's network and its images: of its run, or the run's own.

    Their ``model.init`` names the weights, unless the teacher is a run.

    Raises:
        ConfigError: those of its run cannot be read.
    """
    place, name = str(settings.loss.teacher), settings.loss.teacher_model
    if name is None and place.startswith(TIMM):
        name = place
    if name is None:
        own = load_settings(Path(place) / "config.yaml")
        plain = {"init": None, "freeze": (), "checkpointing": False}
        return own.model_copy(update={"model": own.model.model_copy(update=plain)})
    of_library = {"name": name, "options": {}, "init": place, "freeze": (), "checkpointing": False}
    model = settings.model.model_copy(update=of_library)
    return settings.model_copy(update={"model": model})


def _check_fit(settings: Settings, own: Settings) -> None:
    for key, mine, theirs in (
        ("model.num_classes", settings.model.num_classes, own.model.num_classes),
        ("data.channels", settings.data.channels, own.data.channels),
    ):
        if mine != theirs:
            raise ConfigError(
                f"the teacher was trained with {key}={theirs}, and this run has {mine}",
                key="loss.teacher",
                cure="name a teacher of the same classes and channels",
            )


def _load(model: nn.Module, own: Settings) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Give a network all of its weights; the pixels that they are for, if that is known.

    Raises:
        ConfigError: there are none, or they are those of another network.
    """
    with _of_teacher():
        found = find_weights(own)
        fitted = fit_weights(model, found.read())
    if fitted.new:
        raise ConfigError(
            f"{found.place} does not fit {own.model.name} with {own.model.num_classes} classes "
            f"({fitted.new[0]} is not in it)",
            key="loss.teacher",
            cure="name weights of that network with as many classes, or another loss.teacher_model",
        )
    return found.pixels

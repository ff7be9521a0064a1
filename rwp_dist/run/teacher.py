"""The frozen network that a run distils from (``loss.teacher``)."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwp_dist.base.errors import CheckpointError, ConfigError
from rwp_dist.config import Settings, load_settings
from rwp_dist.data.classes import Classes
from rwp_dist.data.image import Normalise
from rwp_dist.record.teacher import teacher_file
from rwp_dist.run.checkpoint import read_checkpoint
from rwp_dist.run.evaluate import load_network
from rwp_dist.run.models import build_model
from rwp_dist.run.trial import try_network

WRAPPERS = ("state_dict", "model", "weights")
"""Keys below which files of weights have them, if not at the top."""


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
        path = teacher_file(settings)
        assert path is not None, "asked for only if there is one"
        own = teacher_settings(settings)
        _check_fit(settings, own)
        if settings.loss.teacher_model is None:
            model = load_network(own, path, device)
            kept = read_checkpoint(path)["parts"].get("history", {}).get("classes")
            if kept is not None and classes is not None:
                Classes.from_state(kept).joined(classes)
        else:
            model = build_model(own, device)
            _load(model, path, own.model.name)
        self._model = model.eval().requires_grad_(False)
        sizes = settings.data.train_sizes
        try_network(self._model, settings.model_copy(update={"model": own.model}), sizes=sizes)
        self._normalise = Normalise(own.data.mean, own.data.std)
        self._bf16 = settings.precision == "bf16"

    def __call__(self, images: Tensor) -> Tensor:
        """fp32 ``[B, num_classes]`` of images ``[B, C, H, W]``, uint8 or floats in 0..255."""
        with (
            torch.no_grad(),
            torch.autocast(images.device.type, torch.bfloat16, enabled=self._bf16),
        ):
            logits: Tensor = self._model(self._normalise(images))
        return logits.float()


def teacher_settings(settings: Settings) -> Settings:
    """Those of the teacher's network and its images: of its run, or the run's own.

    Raises:
        ConfigError: those of its run cannot be read.
    """
    name = settings.loss.teacher_model
    if name is None:
        return load_settings(Path(str(settings.loss.teacher)) / "config.yaml")
    model = settings.model.model_copy(update={"name": name, "options": {}})
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


def _load(model: nn.Module, path: Path, name: str) -> None:
    """Load a file of weights.

    Raises:
        CheckpointError: it is none.
        ConfigError: it is one of another network.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise CheckpointError(
            f"{path}: cannot be read as weights ({first})",
            cure="set loss.teacher to a file that torch.save wrote of a state_dict",
        ) from error
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key] | (state.get("buffers", {}) if key == "weights" else {})
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(
            f"{path} does not fit {name} ({' '.join(lines[1:2] or lines[:1])[:200]})",
            key="loss.teacher",
            cure="name a file of that network with as many classes, or another loss.teacher_model",
        ) from error

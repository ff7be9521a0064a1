"""``config.json``: what the network is, and how images are made ready for it, as timm writes it."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from rwp_dist.config import TIMM, Settings


def hub_config(
    settings: Settings, model: nn.Module, label_names: Sequence[str] | None
) -> dict[str, Any]:
    """The content of ``config.json``.

    Args:
        settings: of the run.
        model: its network.
        label_names: of the classes, by label; None: not known.
    """
    images = preprocessing(settings)
    labels = {"label_names": list(label_names)} if label_names else {}
    if settings.model.name.startswith(TIMM):
        return _by_timm(model, images, labels)
    kept: dict[str, Any] = {"num_classes": settings.model.num_classes}
    arguments = {"model_args": settings.model.options} if settings.model.options else {}
    pretrained = images | kept | {"custom_load": False}
    config = {"architecture": settings.model.name} | kept | labels | arguments
    return config | {"pretrained_cfg": pretrained}


def preprocessing(settings: Settings) -> dict[str, Any]:
    """Images as an evaluation makes them ready, by timm's names."""
    d = settings.data
    mean, std = (list(values) * (d.channels // len(values)) for values in (d.mean, d.std))
    return {
        "input_size": [d.channels, settings.eval_size, settings.eval_size],
        "interpolation": "bilinear",
        "crop_pct": d.eval_crop_ratio,
        "crop_mode": "center",
        "mean": mean,
        "std": std,
    }


def _by_timm(model: nn.Module, images: dict[str, Any], labels: dict[str, Any]) -> dict[str, Any]:
    """What timm's own push writes, without what it knows of other weights of this network."""
    from timm.models._hub import save_config_for_hf

    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        save_config_for_hf(model, str(path), model_config=dict(labels), data_config=images)
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key in ("tag", "license"):
        config["pretrained_cfg"].pop(key, None)
    return config

"""``rwp-dist predict``: a line of JSON for each image."""

import json
from collections.abc import Sequence
from typing import Any

import click
import torch
from torch import Tensor

from rwp_dist.base.errors import DataError, RwpError
from rwp_dist.data.image import Normalise
from rwp_dist.data.loader import load
from rwp_dist.data.open import eval_transform_of, reading_of
from rwp_dist.data.worker import Lost
from rwp_dist.engine.precision import autocast
from rwp_dist.evaluation.measure import classes_of_checkpoint
from rwp_dist.evaluation.targets import Target
from rwp_dist.prediction.reader import FileReader
from rwp_dist.run.evaluate import evaluating_mode, load_network


def predict_images(target: Target, paths: Sequence[str], top_k: int, device: torch.device) -> None:
    """Print the most probable classes of each image, computed as in an evaluation.

    Args:
        target: the network, with the settings of its evaluation.
        paths: of the images.
        top_k: how many classes; all if there are fewer.
        device: where to compute.

    Raises:
        CheckpointError: the file is not a checkpoint, or not one of its run's network.
        DataError: images cannot be read, after all others were predicted.
    """
    settings = target.settings
    model = load_network(settings, target.checkpoint, device)
    classes = classes_of_checkpoint(target.checkpoint)
    names = None if classes is None else classes.names
    normalise = Normalise(settings.data.mean, settings.data.std)
    reader = FileReader(
        paths, eval_transform_of(settings, settings.eval_size), settings.batch.per_rank
    )
    reading = reading_of(settings, settings.eval_size, pin=device.type == "cuda")
    num_bad = 0
    with evaluating_mode(model):
        for item in load(reader, reading, reader.num_batches, reader.batch):
            assert not isinstance(item, Lost), "a file is no shard"
            images = normalise(item.images.to(device, non_blocking=True))
            with autocast(device, settings.precision):
                logits = model(images).float()
            reasons = {record.sample: record.reason for record in item.bad}
            num_bad += len(reasons)
            best = _best(logits, top_k)
            for number, found in enumerate(best, item.step * reader.batch):
                line: dict[str, Any] = {"path": paths[number]}
                if number in reasons:
                    line["error"] = reasons[number]
                else:
                    line["top"] = [
                        {"class": _name(names, index), "index": index, "probability": probability}
                        for index, probability in found
                    ]
                click.echo(json.dumps(line))
    if num_bad:
        raise DataError(
            f"{num_bad:,} of {len(paths):,} images cannot be read",
            cure='see "error" in their lines',
        )


def _best(logits: Tensor, top_k: int) -> list[list[tuple[int, float]]]:
    """Output and probability of the most probable classes of each image, the best one first.

    Raises:
        RwpError: the network computes no numbers.
    """
    shares, indexes = logits.softmax(1).topk(min(top_k, logits.shape[1]), dim=1)
    if not shares.isfinite().all():
        raise RwpError(
            "the network computes no finite numbers, because its weights have diverged",
            cure="name an earlier checkpoint by --checkpoint, or another run",
        )
    pairs = zip(indexes.tolist(), shares.tolist(), strict=True)
    return [list(zip(*each, strict=True)) for each in pairs]


def _name(names: Sequence[str] | None, index: int) -> str | None:
    """Of a class; None: it is not known."""
    return names[index] if names is not None and index < len(names) else None

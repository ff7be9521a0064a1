"""Loss and metrics at the clean weights, every sample counted once."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_dist.base.keyed import key_seed
from rwp_dist.config import Settings
from rwp_dist.data.batch import BadRecord, Batch, Step
from rwp_dist.perturb.weights import PerturbedCopy
from rwp_dist.process.group import gathered_on_main, same_on_all_ranks
from rwp_dist.record.directory import RunDir
from rwp_dist.run.checkpoint import read_checkpoint, saved_tensors
from rwp_dist.run.models import build_model
from rwp_dist.run.parts import Parts, weights_to_evaluate
from rwp_dist.run.per_class import Confusion, PerClass, class_names
from rwp_dist.run.per_class_files import write_per_class
from rwp_dist.run.task import NUM_BINS, Classification, calibration_error

Result = dict[str, float | None]
"""Numbers of an evaluation; None: the run does not have it."""
LogitsOf = Callable[[Tensor], Tensor]
"""uint8 images ``[B, C, H, W]`` on the device to logits ``[B, num_classes]``."""


class LastEvaluation:
    """The newest result, which a checkpoint keeps for the summary of a resumed run."""

    def __init__(self) -> None:
        self.result: Result = {}
        self.beside: dict[str, Tensor] = {}
        """Buffers that belong to the weights that are not the result (``evaluate_beside``)."""

    def state_dict(self) -> dict[str, Any]:
        return self.result | ({"buffers_beside": self.beside} if self.beside else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.result = {name: value for name, value in state.items() if name != "buffers_beside"}
        self.beside = state.get("buffers_beside", {})


@contextmanager
def evaluating_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, without gradients; back to training afterwards."""
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()


def evaluate(
    logits_of: LogitsOf,
    steps: Iterable[Step],
    device: torch.device,
    task: Classification,
    confusion: Confusion | None = None,
) -> tuple[dict[str, float], list[BadRecord]]:
    """Mean loss and metrics (percent) over all ranks' samples that could be read. A collective.

    Args:
        logits_of: the network in evaluation mode.
        steps: this rank's share, one batch each; all ranks have the same number.
        device: where to compute.
        task: loss and metrics.
        confusion: counts the answers by class, if they are asked for.

    Returns:
        ``loss``, which is the NLL because labels are not smoothed here; the task's metrics;
        ``ece``; ``num_samples`` that they are means of, ``bad_samples`` that could not be read.
        And which these are, by rank.

    Raises:
        RwpError: a rank cannot have a shard; on all ranks.
    """
    names = ("loss", *task.metrics, "num_samples", "bad_samples")
    sums = torch.zeros(len(names), dtype=torch.float64, device=device)
    calibration = torch.zeros(2, NUM_BINS, dtype=torch.float64, device=device)
    bad: list[BadRecord] = []
    with same_on_all_ranks():
        for step in steps:
            batch = step.batches[0].to(device)
            logits = logits_of(batch.images)
            sums[:-1] += _sums(logits, batch, task)
            calibration += task.calibration(logits, batch.labels, batch.weights)
            if confusion is not None:
                confusion.add(logits, batch.labels, batch.weights)
            bad += step.bad
    sums[-1] = len(bad)
    dist.all_reduce(sums)
    dist.all_reduce(calibration)
    found = dict(zip(names, sums.tolist(), strict=True))
    count = max(found["num_samples"], 1.0)
    result = {"loss": found["loss"] / count}
    result |= {name: 100.0 * found[name] / count for name in task.metrics}
    result["ece"] = calibration_error(calibration, count)
    result |= {name: int(found[name]) for name in ("num_samples", "bad_samples")}
    if result["bad_samples"]:
        bad = [record for records in gathered_on_main(bad) for record in records]
    return result, bad


def _sums(logits: Tensor, batch: Batch, task: Classification) -> Tensor:
    """Sums over a batch of loss, metrics and samples: float64 ``[2 + len(metrics)]``."""
    loss = task.nll(logits, batch.labels, batch.weights)
    hits = task.hits(logits, batch.labels, batch.weights)
    counted = (batch.weights > 0)[None]
    return torch.cat([loss[None].double(), hits.double(), counted.double()]).sum(1)


@contextmanager
def clean_network(parts: Parts, done: int) -> Iterator[None]:
    """The network as it is saved: clean weights, and statistics that belong to the evaluated ones.

    Inside, it is not compiled: its numbers are those of ``rwp-dist evaluate``. A collective.

    Args:
        parts: of the run.
        done: updates so far; a key for the batches that renew BatchNorm's statistics for methods
            whose passes are all perturbed, and for an average of the weights.
    """
    with _network_of(parts, done, _extra_weights(parts)):
        yield


@contextmanager
def _network_of(parts: Parts, done: int, others: Mapping[str, Tensor]) -> Iterator[None]:
    """Statistics that belong to these weights, or to the trained ones if there are none."""
    count = min(parts.settings.evaluation.recalibrate_batches, parts.timeline.total_steps)
    # Images that change their size: the latest have the present one.
    first = max(done - count, 0) if len(parts.settings.data.train_sizes) > 1 else 0

    def relearn() -> None:
        torch.manual_seed(key_seed(parts.settings.run.seed, done, -2, dist.get_rank()))
        with _evaluated(parts, others):
            for step in parts.train.steps(first, first + count):
                for batch in step.batches:
                    images = batch.to(parts.device).images
                    parts.engine.forward_only(parts.normalise(images))

    compiled = parts.settings.run.compile
    plain = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    with plain, parts.perturbed.evaluating(relearn if count else None, always=bool(others)):
        yield


def _extra_weights(parts: Parts, key: str = "weights") -> dict[str, Tensor]:
    return weights_to_evaluate((extra.evaluated() for extra in parts.extras.values()), key)


@contextmanager
def _evaluated(parts: Parts, others: Mapping[str, Tensor]) -> Iterator[None]:
    """These weights in place of the clean ones, if there are any. A collective.

    They are written as perturbed weights are, and the clean ones come back as after those. A method
    that perturbs nothing has no use for their memory afterwards.
    """
    if not others:
        yield
        return
    clean, params = parts.engine.weights, [parts.engine.params[name] for name in others]
    try:
        with torch.no_grad(), clean.perturbing(params) as targets:
            for target, value in zip(targets, others.values(), strict=True):
                target.copy_(value)
        yield
    finally:
        clean.recover()
    clean.ensure_clean()
    if isinstance(clean, PerturbedCopy) and parts.method.move is None:
        clean.free()


def evaluate_parts(
    parts: Parts, confusion: Confusion | None = None
) -> tuple[dict[str, float], list[BadRecord]]:
    """``evaluate`` on all evaluation samples, inside ``clean_network``. A collective."""
    return _evaluate_weights(parts, _extra_weights(parts), confusion)


def evaluate_beside(parts: Parts, done: int) -> tuple[Result, dict[str, Tensor]]:
    """Evaluate the weights that are not the result, outside of ``clean_network``. A collective.

    Args:
        parts: of the run.
        done: as of ``clean_network``.

    Returns:
        ``trained_loss`` and ``trained_top1`` if an average is the result, ``average_loss`` and
        ``average_top1`` if the trained weights are; the others, and all without an average, are
        None. And the buffers that belong to those weights, by name.
    """
    names = ("loss", parts.task.headline)
    found: Result = {f"{kind}_{name}": None for kind in ("trained", "average") for name in names}
    beside = _extra_weights(parts, "beside")
    if not beside and not _extra_weights(parts):
        return found, {}
    with _network_of(parts, done, beside):
        result, _ = _evaluate_weights(parts, beside)
        buffers = parts.engine.module.named_buffers()
        kept = {name: buffer.detach().cpu().clone() for name, buffer in buffers}
    kind = "average" if beside else "trained"
    return found | {f"{kind}_{name}": result[name] for name in names}, kept


def _evaluate_weights(
    parts: Parts, others: Mapping[str, Tensor], confusion: Confusion | None = None
) -> tuple[dict[str, float], list[BadRecord]]:
    with evaluating_mode(parts.engine.module), _evaluated(parts, others):
        return evaluate(
            lambda images: parts.engine.forward_only(parts.normalise(images)),
            parts.val.steps(),
            parts.device,
            parts.task,
            confusion,
        )


def evaluate_run(parts: Parts, done: int) -> tuple[dict[str, float], list[BadRecord]]:
    """``evaluate_parts``; answers by class go to the run directory, if they are asked for.

    Args:
        parts: of the run.
        done: updates so far.

    Raises:
        RwpError: a rank cannot have a shard, or the run directory cannot be written; on all ranks.
    """
    settings = parts.settings
    if not settings.evaluation.per_class:
        return evaluate_parts(parts)
    confusion = Confusion(settings.model.num_classes, parts.device)
    found = evaluate_parts(parts, confusion)
    counts = confusion.counts()
    with same_on_all_ranks():
        if dist.get_rank() == 0:
            assert settings.run.dir is not None, "load_settings has filled it in"
            names = class_names(parts.classes.names if parts.classes else None, len(counts))
            answers, last = PerClass(names, counts), done == parts.timeline.total_steps
            write_per_class(RunDir(settings.run.dir), "val", answers, {"step": done}, picture=last)
    return found


def load_beside(settings: Settings, path: Path, device: torch.device) -> dict[str, nn.Module]:
    """The network with the weights of a checkpoint that are not its result, by their name.

    ``trained`` if an average of the weights is the result, ``average`` if it is kept beside the
    trained ones. Empty if there is no average, or the checkpoint lacks the BatchNorm statistics
    that belong to these weights, because it was not evaluated.

    Raises:
        CheckpointError: the file is not a checkpoint, or not one of this network.
    """
    state = read_checkpoint(path)
    parts = state["parts"].values()
    average = {name: w for part in parts for name, w in part.get("beside", {}).items()}
    if not average and not weights_to_evaluate(parts):
        return {}
    model = load_network(settings, path, device)
    buffers = dict(model.named_buffers())
    saved = state["parts"].get("evaluation", {}).get("buffers_beside", {})
    if not saved.keys() >= buffers.keys():
        return {}
    weights = average or state["weights"]
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(weights.get(name, state["weights"][name]))
        for name, buffer in buffers.items():
            buffer.copy_(saved[name])
    return {"average" if average else "trained": model}


def load_network(settings: Settings, path: Path, device: torch.device) -> nn.Module:
    """The settings' network with the weights of a checkpoint that are evaluated.

    Raises:
        CheckpointError: the file is not a checkpoint, or not one of this network.
    """
    state = read_checkpoint(path)
    model = build_model(settings, device)
    shapes = {name: tuple(param.shape) for name, param in model.named_parameters()}
    saved = saved_tensors(path, state, model, shapes)
    saved |= weights_to_evaluate(state["parts"].values())
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name in saved:
                tensor.copy_(saved[name])
    return model

"""Saving and loading a run of ``small_parts`` as the training loop does."""

from pathlib import Path

import torch
from torch import Tensor

from rwp_dist.record.identity import settings_identity
from rwp_dist.run.checkpoint import load_checkpoint, save_checkpoint
from rwp_dist.run.evaluate import clean_network
from rwp_dist.run.history import History
from rwp_dist.run.parts import Parts, Stateful
from rwp_dist.run.progress import Progress
from support.small import buffers_of, weights_of


def stateful_of(parts: Parts, progress: Progress | None = None) -> dict[str, Stateful]:
    """The parts with a state, by name."""
    return {
        "perturbed": parts.perturbed,
        "history": History(settings_identity(parts.settings, None), parts.classes),
        "progress": progress or Progress(parts),
        **parts.extras,
    }


def save(
    folder: Path, parts: Parts, step: int, keep_last: int = 2, progress: Progress | None = None
) -> Path:
    """Write a checkpoint of the clean network. A collective."""
    with clean_network(parts, step):
        stateful = stateful_of(parts, progress)
        save_checkpoint(folder, parts.engine, stateful, step=step, keep_last=keep_last)
    return folder / f"step-{step:08d}.pt"


def load(folder: Path, parts: Parts, progress: Progress | None = None) -> tuple[int, list[str]]:
    """Resume from the newest checkpoint. A collective."""
    return load_checkpoint(folder, parts.engine, stateful_of(parts, progress))


def move_state(parts: Parts) -> dict[str, Tensor]:
    """Energy or direction of the move, as one flat dictionary."""
    state = parts.perturbed.move.state_dict()
    return {f"{kind} {name}": t for kind, by in state.items() for name, t in by.items()}


def everything(parts: Parts) -> dict[str, Tensor]:
    """Weights, buffers, states of optimizer and move, as one flat dictionary. A collective."""
    whole = parts.engine.weights.whole
    state = {f"local {n}": w for n, w in weights_of(parts).items()} if whole else {}
    state |= {f"weight {n}": w for n, w in parts.engine.full_weights().items()}
    state |= {f"buffer {n}": b for n, b in buffers_of(parts).items()}
    for name, values in parts.engine.optimizer_state(keep=True).items():
        state |= {f"{key} {name}": torch.as_tensor(v) for key, v in values.items()}
    return state | move_state(parts)

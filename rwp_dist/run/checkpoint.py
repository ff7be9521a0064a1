"""Checkpoints: one portable file each, from which any world size and ZeRO stage can resume.

    checkpoints/
        step-00000310.pt     weights, buffers, optimizer state by name, energy, step
        step-00000620.pt     the newest ``checkpoint.keep_last`` stay

A file is written under another name, synced and renamed, so a file with this name is whole. It
loads with ``weights_only=True``: it can hold no code.
"""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rwp_dist.base.errors import CheckpointError, CheckpointWriteError
from rwp_dist.engine.engine import Engine
from rwp_dist.perturb.perturbation import Perturbation
from rwp_dist.perturb.statistics import load_statistics, tracking_layers
from rwp_dist.process.group import from_main, same_on_all_ranks

FORMAT = 1
_NAME = re.compile(r"step-(\d{8})\.pt")


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))


def save_checkpoint(
    folder: Path,
    engine: Engine,
    perturbation: Perturbation,
    *,
    step: int,
    progress: dict[str, Any],
    keep_last: int,
    statistics: Tensor | None,
) -> None:
    """Write the state after ``step`` updates; every rank calls it, rank 0 writes.

    Args:
        folder: ``checkpoints/`` of the run directory.
        engine: weights, buffers as they are to be evaluated, optimizer state.
        perturbation: energy of adaptive noise.
        step: updates done.
        progress: counters that the run goes on from; numbers and strings only.
        keep_last: how many checkpoints stay.
        statistics: every rank's own BatchNorm statistics (``gather_statistics``).

    Raises:
        CheckpointWriteError: it could not be written, on a full disk for example; on all ranks.
    """
    is_main = dist.get_rank() == 0
    weights = engine.full_weights(keep=is_main)
    optimizer = engine.optimizer_state(keep=is_main)
    energy = perturbation.energy.value.cpu() if perturbation.energy is not None else None
    with same_on_all_ranks():
        if is_main:
            state = {
                "format": FORMAT,
                "step": step,
                "weights": weights,
                "buffers": {k: v.detach().cpu().clone() for k, v in engine.module.named_buffers()},
                "optimizer": optimizer,
                "energy": {f.name: energy[f.rows] for f in perturbation.filters}
                if energy is not None
                else {},
                "statistics": statistics,
                "progress": progress,
            }
            _write(folder, folder / f"step-{step:08d}.pt", state, keep_last)


def _write(folder: Path, path: Path, state: dict[str, Any], keep_last: int) -> None:
    part = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.part"):  # by an attempt that was killed
            left.unlink(missing_ok=True)
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as the latter
        part.unlink(missing_ok=True)
        raise CheckpointWriteError(
            f"{path}: the checkpoint could not be written ({error}); free space there, or set "
            "run.dir to another disk, and start the same command again."
        ) from error
    others = [old for old in list_checkpoints(folder) if old != path]
    for old in others[: max(len(others) - (keep_last - 1), 0)]:
        old.unlink(missing_ok=True)


def load_checkpoint(
    folder: Path, engine: Engine, perturbation: Perturbation
) -> tuple[int, dict[str, Any], list[str]] | None:
    """Resume from the newest whole checkpoint; None if there is none.

    Rank 0 chooses, so that all ranks take the same file. Unreadable ones are put aside as
    ``.bad``.

    Returns:
        Its step, its progress, and what was wrong with newer ones.

    Raises:
        CheckpointError: there are checkpoints but none can be read, or it is of another network.
    """
    path, troubles = from_main(lambda: _newest_readable(folder))
    if path is None and not troubles:
        return None
    with same_on_all_ranks():
        if path is None:
            raise CheckpointError(
                f"{folder}: none of {len(troubles)} checkpoints can be read; remove the folder to "
                f"start anew, or put a good copy there. Newest: {troubles[0]}"
            )
        state = read_checkpoint(path)
        _load_buffers(state, path, engine)
    engine.load(state["weights"], state["optimizer"])
    own = state["statistics"]
    if own is not None and len(own) == dist.get_world_size():
        load_statistics(tracking_layers(engine.module), own[dist.get_rank()])
    if perturbation.energy is not None:
        energy = perturbation.energy.value
        for filter_ in perturbation.filters:
            if filter_.name in state["energy"]:
                energy[filter_.rows] = state["energy"][filter_.name].to(engine.device)
        perturbation.energy.value = energy
    dist.barrier()
    if dist.get_rank() == 0:
        newer = list_checkpoints(folder)
        for bad in newer[newer.index(path) + 1 :]:
            bad.replace(bad.with_suffix(".bad"))
    return state["step"], state["progress"], troubles


def check_state(saved: dict[str, Any] | None, present: dict[str, object]) -> None:
    """Refuse to go on with other samples than the checkpoint's.

    Raises:
        CheckpointError: what the order of samples depends on has changed; names it.
    """
    for name, value in present.items() if saved else ():
        if saved and saved.get(name) != value:
            raise CheckpointError(
                f"The checkpoint was written with {name} {saved.get(name)!r} and this run has "
                f"{value!r}, so it would not see each sample once; restore that, or choose another "
                "run.dir."
            )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a checkpoint, on the CPU.

    Raises:
        CheckpointError: it is torn, not a checkpoint, or of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({first}).") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is no checkpoint of this program.")
    return state


def _load_buffers(state: dict[str, Any], path: Path, engine: Engine) -> None:
    """Check that a checkpoint is of this network, and take over its buffers."""
    shapes = engine.shapes
    theirs = {name: tuple(value.shape) for name, value in state["weights"].items()}
    wrong = sorted(
        name for name in shapes.keys() | theirs.keys() if shapes.get(name) != theirs.get(name)
    )
    if wrong:
        raise CheckpointError(
            f"{path}: belongs to another network ({wrong[0]} differs); set model.* as it was, or "
            "choose another run.dir."
        )
    buffers = dict(engine.module.named_buffers())
    for name, value in state["buffers"].items():
        buffers[name].copy_(value)


def _newest_readable(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be read whole, and what is wrong with those after it."""
    troubles: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            _check_sums(path)
            read_checkpoint(path)
            return path, troubles
        except CheckpointError as error:
            troubles.append(str(error))
    return None, troubles


def _check_sums(path: Path) -> None:
    """Read the whole file once: torch does not look at the checksums that it writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({error}).") from None
    if damaged is not None:
        raise CheckpointError(f"{path}: is damaged in {damaged}.")


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

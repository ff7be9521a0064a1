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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rwp_dist.distributed import from_main
from rwp_dist.engine import Engine
from rwp_dist.errors import CheckpointError
from rwp_dist.perturb.perturbation import Perturbation

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
) -> Path:
    """Write the state after ``step`` updates; every rank calls it, rank 0 writes.

    Args:
        folder: ``checkpoints/`` of the run directory.
        engine: weights and optimizer state.
        perturbation: energy of adaptive noise.
        step: updates done.
        progress: counters that the run goes on from; numbers and strings only.
        keep_last: how many checkpoints stay.

    Raises:
        CheckpointError: it could not be written, on a full disk for example.
    """
    energy = perturbation.energy
    state = {
        "format": FORMAT,
        "step": step,
        "weights": engine.full_weights(),
        "buffers": {k: v.detach().cpu().clone() for k, v in engine.module.named_buffers()},
        "optimizer": engine.optimizer_state(),
        "energy": {f.name: energy.value[f.rows].cpu().clone() for f in perturbation.filters}
        if energy is not None
        else {},
        "progress": progress,
    }
    path = folder / f"step-{step:08d}.pt"
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(folder)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as the latter
            part.unlink(missing_ok=True)
            raise CheckpointError(
                f"{path}: the checkpoint could not be written ({error}); free space there, or set "
                "run.dir to another disk, and start the same command again."
            ) from error
        for old in list_checkpoints(folder)[:-keep_last]:
            old.unlink(missing_ok=True)
    dist.barrier()
    return path


def load_checkpoint(
    folder: Path, engine: Engine, perturbation: Perturbation
) -> tuple[int, dict[str, Any]] | None:
    """Resume from the newest whole checkpoint: its step and progress, or None if there is none.

    Rank 0 chooses, so that all ranks take the same file.

    Raises:
        CheckpointError: there are checkpoints but none can be read, or it is of another network.
    """
    path, trouble = from_main(lambda: _newest_readable(folder))
    if path is None:
        if trouble:
            raise CheckpointError(trouble)
        return None
    state = read_checkpoint(path)
    _load_buffers(state, path, engine)
    engine.load(state["weights"], state["optimizer"])
    if perturbation.energy is not None:
        for filter_ in perturbation.filters:
            if filter_.name in state["energy"]:
                perturbation.energy.value[filter_.rows] = state["energy"][filter_.name].to(
                    engine.device
                )
    return state["step"], state["progress"]


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


def _newest_readable(folder: Path) -> tuple[Path | None, str]:
    """The newest checkpoint that can be read whole; or why there is none though files are there."""
    problems: Sequence[str] = ()
    for path in reversed(list_checkpoints(folder)):
        try:
            _check_sums(path)
            read_checkpoint(path)
            return path, ""
        except CheckpointError as error:
            problems = (*problems, str(error))
    if not problems:
        return None, ""
    return None, (
        f"{folder}: none of {len(problems)} checkpoints can be read; remove the folder to start "
        f"anew, or put a good copy there. Newest: {problems[0]}"
    )


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

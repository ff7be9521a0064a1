"""Checkpoints: one portable file each, from which any world size and ZeRO stage can resume.

    checkpoints/
        step-00000310.pt     weights, buffers, optimizer state by name, states of the parts
        step-00000620.pt     the newest ``checkpoint.keep_last`` stay

A file is written under another name, synced and renamed, so a file with this name is whole. It
loads with ``weights_only=True``: it can hold no code. ``torch.load(path, weights_only=True)``
gives a dictionary whose ``weights`` and ``buffers`` an ordinary network loads: a tensor that it has
under several names is there under each, and buffers that are not persistent are in ``transient``.
An average of the weights is in the state of its part, ``["parts"][name]["weights"]``; ``buffers``
belong to it then.
"""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_dist.base import checksum, disk
from rwp_dist.base.errors import CheckpointError, CheckpointWriteError
from rwp_dist.base.files import atomic_file, remove_leftovers
from rwp_dist.base.text import is_utf8
from rwp_dist.data.chosen import ID_DIGITS
from rwp_dist.engine.engine import Engine
from rwp_dist.process.group import (
    all_equal,
    differing,
    from_main,
    gathered_on_main,
    same_on_all_ranks,
)
from rwp_dist.run.parts import Stateful

FORMAT = 2
_KEYS = {
    1: {"step", "weights", "buffers", "optimizer", "progress", "energy", "statistics"},
    FORMAT: {"step", "weights", "buffers", "optimizer", "optimizer_groups", "parts"},
}
_NAME = re.compile(r"step-(\d{8})\.pt")
_ANOTHER = "name a whole step-*.pt file of a run, on a disk that every node sees"


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))


def save_checkpoint(
    folder: Path, engine: Engine, parts: Mapping[str, Stateful], *, step: int, keep_last: int
) -> int:
    """Write the state after ``step`` updates; every rank calls it, rank 0 writes.

    Args:
        folder: ``checkpoints/`` of the run directory.
        engine: weights, buffers as they are to be evaluated, optimizer state.
        parts: every part with a state, by name.
        step: updates done.
        keep_last: how many checkpoints stay.

    Returns:
        Size of the file in bytes; 0 on the ranks that do not write.

    Raises:
        CheckpointWriteError: it could not be written, on a full disk for example; on all ranks.
    """
    is_main = dist.get_rank() == 0
    module, persistent = engine.module, engine.module.state_dict().keys()
    buffers = {name: b.detach().cpu().clone() for name, b in module.named_buffers()}
    further = further_names(module)
    buffers |= {name: buffers[first] for name, first in further.items() if first in buffers}
    weights = engine.full_weights(keep=is_main)
    weights |= {name: weights[first] for name, first in further.items() if first in weights}
    state = {
        "format": FORMAT,
        "step": step,
        "weights": weights,
        "buffers": {name: b for name, b in buffers.items() if name in persistent},
        "transient": {name: b for name, b in buffers.items() if name not in persistent},
        "buffers_of_ranks": _buffers_of_ranks(buffers),
        "optimizer": engine.optimizer_state(keep=is_main),
        "optimizer_groups": engine.optimizer_groups(),
        "parts": {name: part.state_dict() for name, part in parts.items()},
    }
    num_bytes = 0
    with same_on_all_ranks():
        if is_main:
            path = folder / f"step-{step:08d}.pt"
            _write(folder, path, state, keep_last)
            num_bytes = path.stat().st_size
    return num_bytes


def _buffers_of_ranks(buffers: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Buffers that are not the same on all ranks, of each rank, on rank 0. A collective.

    A spectral norm keeps such, which sees each rank's perturbed weights. BatchNorm's statistics are
    averaged by now.
    """
    bits = {n: b.contiguous().view(-1).view(torch.uint8).numpy() for n, b in buffers.items()}
    if not all_equal(hashlib.sha256("\n".join(bits).encode()).digest()):
        return gathered_on_main(buffers)  # some ranks have buffers that others lack
    if not bits:
        return []
    names, sums = list(bits), torch.tensor([checksum.crc32(content) for content in bits.values()])
    differ = [names[place] for place in differing(sums)]
    return gathered_on_main({name: buffers[name] for name in differ}) if differ else []


def further_names(model: nn.Module) -> dict[str, str]:
    """For tensors that a network has under several names: the first name by each further one."""
    firsts: dict[Tensor, str] = {}
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    return {name: firsts[t] for name, t in named if firsts.setdefault(t, name) != name}


def _write(folder: Path, path: Path, state: dict[str, Any], keep_last: int) -> None:
    try:
        remove_leftovers(folder)  # of an attempt that was killed
        with atomic_file(path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError:  # torch does not say why; the same disk does for a little more
                with temporary.open("ab") as file:
                    file.write(bytes(1 << 20))
                raise
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else OSError(str(error))
        raise CheckpointWriteError(
            f"{path}: the checkpoint could not be written ({cause.strerror or cause})",
            cure=f"{disk.cure_of(cause, 'set run.dir to')}, and start the same command again",
        ) from error
    others = [old for old in list_checkpoints(folder) if old != path]
    for old in others[: max(len(others) - (keep_last - 1), 0)]:
        old.unlink(missing_ok=True)


def load_checkpoint(
    folder: Path, engine: Engine, parts: Mapping[str, Stateful]
) -> tuple[int, list[str]]:
    """Resume from the newest whole checkpoint.

    Rank 0 chooses, so that all ranks take the same file. Unreadable ones are put aside as
    ``.bad``.

    Returns:
        Its step, 0 if there is no checkpoint, and what was wrong with newer ones, each without a
        full stop.

    Raises:
        CheckpointError: there are checkpoints but none can be read, or it is of another network.
    """
    path, troubles = from_main(lambda: _newest_readable(folder))
    if path is None and not troubles:
        return 0, []
    with same_on_all_ranks():
        if path is None:
            raise CheckpointError(
                f"{folder}: none of {len(troubles)} checkpoints can be read (newest: "
                f"{troubles[0]})",
                cure="remove the folder to start anew, or put a good copy there",
            )
        state = read_checkpoint(path)
        saved = saved_tensors(path, state, engine.module, engine.shapes)
        own = state.get("buffers_of_ranks", [])
        if len(own) == dist.get_world_size():
            saved |= own[dist.get_rank()]
        for name, buffer in engine.module.named_buffers():
            if name in saved:
                buffer.copy_(saved[name])
        for name, part in parts.items():
            if name in state["parts"]:  # a part that is new starts afresh
                part.load_state_dict(state["parts"][name])
    engine.load(saved, state["optimizer"], state["optimizer_groups"])
    dist.barrier()
    if dist.get_rank() == 0:
        newer = list_checkpoints(folder)
        for bad in newer[newer.index(path) + 1 :]:
            disk.replace(bad, bad.with_suffix(".bad"))
    step: int = state["step"]
    return step, troubles


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a checkpoint, on the CPU.

    Raises:
        CheckpointError: it is torn, not a checkpoint, or of a format that is not known.
    """
    try:
        zipfile.ZipFile(path).close()  # torch advises to save what is no zip file in another way
        with path.open("rb") as file:
            # torch maps only a file whose name is UTF-8.
            mapped = is_utf8(str(path))
            source = path if mapped else file
            state = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:  # torch advises to trust the file
        raise CheckpointError(
            f"{path}: holds more than tensors and numbers, or is damaged", cure=_ANOTHER
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({first})", cure=_ANOTHER
        ) from None
    format_ = state.get("format") if isinstance(state, dict) else None
    keys = _KEYS.get(format_) if type(format_) is int else None
    if keys is None or not keys <= state.keys():
        raise CheckpointError(f"{path}: is no checkpoint of this program", cure=_ANOTHER)
    state = state if format_ == FORMAT else _from_format_1(state)
    return state | {"parts": _with_history(state["parts"])}


def _with_history(parts: dict[str, Any]) -> dict[str, Any]:
    """The parts of a checkpoint; those of earlier versions get a history."""
    if "history" in parts or "manifest id" not in parts.get("data", {}):
        return parts
    identity = {"data.train.id": parts["data"]["manifest id"][:ID_DIGITS]}
    classes = parts.get("classes")
    return parts | {"history": {"identity": identity, "changes": [], "classes": classes}}


def _from_format_1(state: dict[str, Any]) -> dict[str, Any]:
    """What version 0.1 wrote, before parts had states of their own."""
    progress = dict(state["progress"])
    statistics = {"move": {"energy": state["energy"]}, "statistics": state["statistics"]}
    parts = {
        "perturbed": statistics,
        "evaluation": progress.pop("eval", {}),
        "data": progress.pop("data", {}),
        "bad_samples": {"total": progress.pop("bad_samples", 0)},
        "progress": {"noise_backend": None, "perturb_share": 0.0, "step_s": None} | progress,
    }
    kept = ("step", "weights", "buffers", "optimizer")
    converted = {"format": FORMAT, "parts": parts, "optimizer_groups": None}
    return converted | {key: state[key] for key in kept}


def saved_tensors(
    path: Path, state: Mapping[str, Any], model: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Weights and buffers of a checkpoint, each by the first name that the network has for it.

    Args:
        path: of the checkpoint, for the message.
        state: its content.
        model: the network.
        shapes: of the network's parameters, by name.

    Raises:
        CheckpointError: a name or a shape differs. Buffers that are not persistent may differ, and
            are then left out.
    """
    further, buffers = further_names(model), dict(model.named_buffers())
    all_shapes = dict(shapes) | {name: tuple(b.shape) for name, b in buffers.items()}
    transient = state.get("transient", {})
    optional = transient.keys() | (buffers.keys() - model.state_dict().keys())
    saved = {
        name: tensor
        for name, tensor in {**state["weights"], **state["buffers"], **transient}.items()
        if name not in further
    }
    wrong = sorted(
        name
        for name in saved.keys() | all_shapes.keys()
        if name not in saved or tuple(saved[name].shape) != all_shapes.get(name)
    )
    for name in wrong:
        if name not in optional:
            raise CheckpointError(
                f"{path}: belongs to another network ({name} differs)",
                cure="set model.* as it was, or choose another run.dir",
            )
        saved.pop(name, None)
    return saved


def _newest_readable(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be read whole, and what is wrong with those after it."""
    troubles: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            _check_sums(path)
            read_checkpoint(path)
            return path, troubles
        except CheckpointError as error:
            troubles.append(error.problem)
    return None, troubles


def _check_sums(path: Path) -> None:
    """Read the whole file once: torch does not look at the checksums that it writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not compress: more content than bytes would be read without end.
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise zipfile.BadZipFile("it is compressed")
            damaged = archive.testzip()
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({error})", cure=_ANOTHER
        ) from None
    if damaged is not None:
        raise CheckpointError(f"{path}: is damaged in {damaged}", cure=_ANOTHER)

"""Weights to start from (``model.init``): found, read, and given to the network.

Rank 0 does all of it, so no other rank needs the file: the engine gives rank 0's weights to all.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.base.files import write_json
from rwp_dist.base.text import shortened
from rwp_dist.config import TIMM, TORCHVISION, Settings
from rwp_dist.data.classes import Classes, Note
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import begun_settings, identity_in
from rwp_dist.record.weights import KINDS, weights_file, weights_id
from rwp_dist.run.checkpoint import read_checkpoint
from rwp_dist.run.fitting import KEY, Weights, fit_weights
from rwp_dist.run.models import find_in_timm, import_timm
from rwp_dist.run.parts import weights_to_evaluate

# --- where weights are ---


class Found(NamedTuple):
    """Weights that are there, and not read yet."""

    place: str
    """For messages."""
    id: str
    """Other weights have another one."""
    read: Callable[[], Weights]
    pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and deviation of the pixels that they were trained on (``data.mean`` and ``data.std``).
    None: not known."""


def find_weights(settings: Settings) -> Found:
    """The weights that ``model.init`` names.

    Raises:
        ConfigError: there are none.
    """
    place = str(settings.model.init)
    for starts, find in LIBRARIES.items():
        if place.startswith(starts):
            return find(place.removeprefix(starts), settings)
    path = weights_file(place, KEY)
    assert path is not None, "it is none of a library"
    read = READERS.get(path.suffix, _torch_file)
    return Found(str(path), weights_id(path, KEY), lambda: read(path))


def _torchvision(name: str, settings: Settings) -> Found:
    from torchvision.models import get_model_weights

    model = settings.model.name
    try:
        known = get_model_weights(model)
    except ValueError:
        raise _refused(
            f"torchvision has no weights for {model}", "set it to null, or name a file"
        ) from None
    if name not in known.__members__:
        raise _refused(
            f"torchvision has no weights {name!r} for {model}",
            f"write {TORCHVISION} and one of {', '.join(known.__members__)}",
        )
    weights = known[name]
    place = f"torchvision's {weights}"

    def read() -> Weights:
        with _downloading(place):
            return Weights(
                weights.get_state_dict(
                    progress=False, check_hash=True, map_location="cpu", weights_only=True
                )
            )

    images = weights.transforms()
    return Found(place, Path(weights.url).name, read, (tuple(images.mean), tuple(images.std)))


def _timm(name: str, settings: Settings) -> Found:
    timm = import_timm(KEY)
    pretrained = find_in_timm(name, KEY)
    if not (pretrained and pretrained.has_weights):
        raise _refused(f"timm has no weights of {name}", "name one of timm.list_pretrained()")
    whole = f"{pretrained.architecture}.{pretrained.tag}" if pretrained.tag else name
    place = f"timm's {whole}"

    def read() -> Weights:
        with _downloading(place), torch.random.fork_rng(devices=[]):
            # timm itself knows how its files of many origins become its networks.
            model = timm.create_model(name, pretrained=True, in_chans=settings.data.channels)
            return Weights(model.state_dict())

    return Found(place, whole, read, (tuple(pretrained.mean), tuple(pretrained.std)))


@contextmanager
def _downloading(what: str) -> Iterator[None]:
    """Have whatever a library raises be one sentence."""
    try:
        yield
    except Exception as error:  # of the network, of hashes, of the libraries' own kinds
        said = shortened(str(error).partition("\n")[0].rstrip("."), 200)
        raise _refused(
            f"{what} cannot be had ({type(error).__name__}: {said})",
            "start where they can be downloaded, or name a file that has them",
        ) from error


LIBRARIES: dict[str, Callable[[str, Settings], Found]] = {TORCHVISION: _torchvision, TIMM: _timm}
"""What finds weights that a library has, by what their names begin with."""


# --- files ---


def _safetensors(path: Path) -> Weights:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise _refused(
            "the package safetensors is not installed", "install it (pip install safetensors)"
        ) from None
    try:
        return Weights(load_file(path))
    except Exception as error:  # of the library's own kind, or of the disk
        raise _refused(f"{path} cannot be read as safetensors ({error})", KINDS) from None


def _torch_file(path: Path) -> Weights:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch advises to trust the file
        raise _refused(
            f"{path} is no file of weights, or holds more than tensors and numbers",
            "save the network's state_dict() alone, with torch.save",
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise _refused(f"{path} cannot be read by torch ({first})", KINDS) from None
    if isinstance(content, dict) and {"format", "weights", "parts"} <= content.keys():
        return _checkpoint(path)
    for key in ("state_dict", "model", "model_state_dict", "weights"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = content.items() if isinstance(content, dict) else ()
    return Weights({str(name): t for name, t in tensors if isinstance(t, Tensor)})


def _checkpoint(path: Path) -> Weights:
    try:
        state = read_checkpoint(path)
    except RwpError as error:
        raise _refused(error.problem, KINDS) from None
    history = state["parts"].get("history") or {}
    names = (history.get("classes") or {}).get("names")
    average = weights_to_evaluate(state["parts"].values())
    tensors = {**state["weights"], **state["buffers"], **average}
    return Weights(tensors, tuple(names) if names else None)


READERS: dict[str, Callable[[Path], Weights]] = {".safetensors": _safetensors}
"""What reads a file, by the end of its name; others are torch's."""


# --- of a run ---


def begin_from_weights(model: nn.Module, settings: Settings, classes: Classes | None) -> list[Note]:
    """Give a network the weights that ``model.init`` names, and say what was taken.

    Nothing, if the run goes on from a checkpoint.

    Args:
        model: of rank 0.
        settings: of the run.
        classes: of the training data. None: not known.

    Raises:
        ConfigError: the weights are not there, cannot be read or do not fit.
    """
    run_dir = RunDir(str(settings.run.dir))
    if run_dir.has_checkpoint():
        return []
    source = find_weights(settings)
    weights = source.read()
    try:
        fitted = fit_weights(model, weights, classes)
    except ConfigError as error:
        raise _refused(f"{source.place}: {error.problem}", error.cure or KINDS) from error
    if run_dir.path.is_dir():
        record = {"place": source.place, "id": source.id} | asdict(fitted)
        write_json(run_dir.path / "initial.json", record)
    problem = f"{source.place}: {fitted}"
    found = [Note(KEY, problem, "name other weights if that is not meant")]
    own = settings.data.mean, settings.data.std
    if source.pixels is not None and source.pixels != own:
        mean, std = (list(values) for values in source.pixels)
        problem = f"{source.place} were trained with data.mean={mean} data.std={std}"
        found.append(Note("data.mean", problem, "set them so, unless the images are other ones"))
    return found


def weights_identity(run_dir: RunDir, settings: Settings) -> dict[str, Any]:
    """What tells the weights that a run begins from, for its identity.

    A run that goes on has it already, and its weights may be gone by now.

    Raises:
        ConfigError: there are no such weights.
    """
    if settings.model.init is None:
        return {}
    before = (identity_in(run_dir) or {}).get("model.init.id") if run_dir.has_checkpoint() else None
    if before is not None and _same_place(begun_settings(run_dir), settings):
        return {"model.init.id": before}
    return {"model.init.id": find_weights(settings).id}


def _same_place(one: Settings, other: Settings) -> bool:
    first, second = (Path(str(s.model.init)).absolute() for s in (one, other))
    return first == second


def _refused(problem: str, cure: str) -> ConfigError:
    return ConfigError(problem, key=KEY, cure=cure)

"""Weights to start from (``model.init``): found, read and fitted to the network.

Rank 0 does all of it, so no other rank needs the file: the engine gives rank 0's weights to all.
"""

import hashlib
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.base.files import write_json
from rwp_dist.base.text import shortened
from rwp_dist.config import Settings
from rwp_dist.data.classes import Classes, Note
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import begun_settings, identity_in
from rwp_dist.run.checkpoint import read_checkpoint
from rwp_dist.run.models import TIMM, find_in_timm, import_timm
from rwp_dist.run.parts import weights_to_evaluate

KEY = "model.init"
TORCHVISION = "torchvision:"
ID_DIGITS = 16
"""Hexadecimal digits of a file's sha256 in an identity."""

_KINDS = "name a .pt, .pth or .safetensors file, a run directory, torchvision:DEFAULT, or timm:NAME"

# --- where weights are ---


class Weights(NamedTuple):
    """What was read."""

    tensors: Mapping[str, Tensor]
    classes: tuple[str, ...] | None = None
    """Names of the classes that they were trained on, in the order of labels. None: not known."""


class Found(NamedTuple):
    """Weights that are there, and not read yet."""

    place: str
    """For messages."""
    id: str
    """Other weights have another one."""
    read: Callable[[], Weights]


def find_weights(settings: Settings) -> Found:
    """The weights that ``model.init`` names.

    Raises:
        ConfigError: there are none.
    """
    place = str(settings.model.init)
    for starts, find in LIBRARIES.items():
        if place.startswith(starts):
            return find(place.removeprefix(starts), settings)
    path = Path(place)
    if path.is_dir():
        try:
            path = RunDir(path).newest_checkpoint()
        except RwpError as error:
            raise _refused(error.problem, _KINDS) from None
    read = READERS.get(path.suffix, _torch_file)
    return Found(str(path), _digest(path), lambda: read(path))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise _refused(f"{path} cannot be read ({why})", _KINDS) from None
    return digest.hexdigest()[:ID_DIGITS]


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

    def read() -> Weights:
        with _downloads():
            return Weights(
                weights.get_state_dict(
                    progress=False, check_hash=True, map_location="cpu", weights_only=True
                )
            )

    return Found(f"torchvision's {weights}", Path(weights.url).name, read)


def _timm(name: str, settings: Settings) -> Found:
    timm = import_timm(KEY)
    pretrained = find_in_timm(name, KEY)
    if not (pretrained and pretrained.has_weights):
        raise _refused(f"timm has no weights of {name}", "name one of timm.list_pretrained()")
    whole = f"{pretrained.architecture}.{pretrained.tag}" if pretrained.tag else name

    def read() -> Weights:
        with _downloads(), torch.random.fork_rng(devices=[]):
            # timm itself knows how its files of many origins become its networks.
            model = timm.create_model(name, pretrained=True, in_chans=settings.data.channels)
            return Weights(model.state_dict())

    return Found(f"timm's {whole}", whole, read)


class _downloads:  # noqa: N801 - a context manager
    """Have whatever a library raises be one sentence."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):  # of the network, of hashes, of the libraries' own kinds
            said = shortened(str(error).partition("\n")[0].rstrip("."), 200)
            raise _refused(
                f"its weights cannot be had ({type(error).__name__}: {said})",
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
        raise _refused(f"{path} cannot be read as safetensors ({error})", _KINDS) from None


def _torch_file(path: Path) -> Weights:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch advises to trust the file
        raise _refused(
            f"{path} holds more than tensors and numbers",
            "save the network's state_dict() alone, with torch.save",
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        first = str(error).partition("\n")[0].rstrip(".")
        raise _refused(f"{path} cannot be read by torch ({first})", _KINDS) from None
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
        raise _refused(error.problem, _KINDS) from None
    history = state["parts"].get("history") or {}
    names = (history.get("classes") or {}).get("names")
    average = weights_to_evaluate(state["parts"].values())
    tensors = {**state["weights"], **state["buffers"], **average}
    return Weights(tensors, tuple(names) if names else None)


READERS: dict[str, Callable[[Path], Weights]] = {".safetensors": _safetensors}
"""What reads a file, by the end of its name; others are torch's."""


# --- names ---

PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DistributedDataParallel, a wrapper or torch.compile puts before every name."""

RENAMES = (
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"(encoder_layer_\d+)\.norm(\d)\.", r"\1.ln_\2."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
    (r"\.mlp\.(fc1|linear_1)\.", ".mlp.0."),
    (r"\.mlp\.(fc2|linear_2)\.", ".mlp.3."),
    (r"^norm\.", "encoder.ln."),
    (r"^head\.", "heads.head."),
    (r"(\.denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2."),
)
"""From timm's names in a ViT to torchvision's, and from torchvision's of before to those of now."""


def common_name(name: str) -> str:
    """One name for a tensor that libraries and wrappers call differently."""
    while starts := next((p for p in PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(starts)
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


# --- fitting ---


@dataclass
class Fitted:
    """What became of the tensors of both sides, by name."""

    taken: list[str] = field(default_factory=list)
    interpolated: list[str] = field(default_factory=list)
    """Position embeddings, taken for another number of patches."""
    new: list[str] = field(default_factory=list)
    """Of the network, drawn from ``run.seed``."""
    unused: list[str] = field(default_factory=list)
    """Of the weights that were read."""

    def __str__(self) -> str:
        total = len(self.taken) + len(self.interpolated) + len(self.new)
        parts = [f"{len(self.taken)} of {total} tensors are taken"]
        for words, names in (
            ("interpolated", self.interpolated),
            ("made anew", self.new),
            ("not used of it", self.unused),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                parts.append(f"{words}: {', '.join(names[:3])}{more}")
        return ", ".join(parts)


def fit_weights(model: nn.Module, weights: Weights, classes: Classes | None = None) -> Fitted:
    """Copy weights into a network, in place.

    Its head, the last layer, stays as it is if it has another number of classes, or ``classes``
    of other names; other tensors have to fit. Position embeddings are interpolated.

    Raises:
        ConfigError: a tensor has another shape, or most of the network's are missing; then nothing
            is copied.
    """
    own = model.state_dict()
    by_common = {common_name(name): name for name in own}
    head, fitted = head_of(model), Fitted()
    known = (weights.classes, classes.names if classes else None)
    new_head = head if None not in known and known[0] != known[1] else set[str]()
    found = dict[str, Tensor]()
    for name, tensor in weights.tensors.items():
        place = name if name in own else by_common.get(common_name(name))
        if place is None or place in new_head or place in found:
            fitted.unused.append(name)
            continue
        here, there = own[place].shape, tensor.shape
        if here == there:
            fitted.taken.append(place)
        elif place in head and here[1:] == there[1:]:
            fitted.unused.append(name)
            continue
        elif "pos_embed" in place and (resized := interpolated(tensor, here)) is not None:
            tensor = resized
            fitted.interpolated.append(place)
        else:
            raise _refused(
                f"{place} is {list(here)} here and {list(there)} there",
                "name weights of the same network, with the same model.options and data.channels",
            )
        found[place] = tensor
    fitted.new = [name for name in own if name not in found]
    body = {name: p.numel() for name, p in model.named_parameters() if name not in head}
    if 2 * sum(body[name] for name in body if name in found) < sum(body.values()):
        missing = next(name for name in body if name not in found)
        raise _refused(
            f"most of {type(model).__name__} is not in it, such as {missing}",
            "name weights of the same network",
        )
    with torch.no_grad():
        for name, tensor in found.items():
            own[name].copy_(tensor)
    return fitted


def head_of(model: nn.Module) -> set[str]:
    """Names of the parameters of the last module that has some: what gives the logits."""
    last = [name for name, m in model.named_modules() if any(True for _ in m.parameters(False))][-1]
    prefix = f"{last}." if last else ""
    own = model.get_submodule(last).named_parameters(recurse=False)
    return {prefix + name for name, _ in own}


def interpolated(embedding: Tensor, shape: torch.Size) -> Tensor | None:
    """Position embeddings of a square of patches for another square.

    Both are ``[1, tokens + side**2, channels]``; those of class tokens, which come first, are kept.
    Bicubic, with antialiasing where the square shrinks. None: they are not of this form.
    """
    if embedding.ndim != 3 or len(shape) != 3 or embedding.shape[2] != shape[2]:
        return None
    before, after = embedding.shape[1], shape[1]
    for tokens in range(min(before, after)):
        old, new = isqrt(before - tokens), isqrt(after - tokens)
        if old**2 == before - tokens and new**2 == after - tokens:
            kept, patches = embedding[:, :tokens], embedding[:, tokens:]
            square = patches.float().transpose(1, 2).unflatten(2, (old, old))  # [1, C, old, old]
            square = F.interpolate(square, (new, new), mode="bicubic", antialias=True)
            return torch.cat([kept.float(), square.flatten(2).transpose(1, 2)], dim=1)
    return None


# --- of a run ---


def begin_from_weights(model: nn.Module, settings: Settings, classes: Classes | None) -> list[Note]:
    """Give a network the weights that a new run begins with, and say what was taken.

    Nothing, if the settings name none or the run goes on from a checkpoint.

    Args:
        model: of rank 0.
        settings: of the run.
        classes: of the training data. None: not known.

    Raises:
        ConfigError: the weights are not there, cannot be read or do not fit.
    """
    run_dir = RunDir(str(settings.run.dir))
    if settings.model.init is None or run_dir.has_checkpoint():
        return []
    source = find_weights(settings)
    try:
        fitted = fit_weights(model, source.read(), classes)
    except ConfigError as error:
        raise _refused(f"{source.place}: {error.problem}", error.cure or _KINDS) from error
    if run_dir.path.is_dir():
        record = {"place": source.place, "id": source.id} | asdict(fitted)
        write_json(run_dir.path / "initial.json", record)
    problem = f"{source.place}: {fitted}"
    return [Note(KEY, problem, "name other weights if that is not meant")]


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

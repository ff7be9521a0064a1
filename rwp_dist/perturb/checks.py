"""What ``Perturbed`` refuses, each with its cure."""

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.methods import METHODS, Method
from rwp_dist.perturb.normals import Backend
from rwp_dist.perturb.rows import Rows
from rwp_dist.perturb.scale import Scale
from rwp_dist.perturb.slots import Slot

Strength = float | Callable[[int], float]
"""A number, or a function of the step."""


def find_method(name: str) -> Method:
    """The method of that name."""
    if name not in METHODS:
        raise ConfigError(
            f"there is no method {name!r}", key="method", cure=f"choose from {', '.join(METHODS)}"
        )
    return METHODS[name]


def refuse_no_network(model: object) -> None:
    """Refuse what is no network, such as a list of its parameters."""
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"a {type(model).__name__} is no network",
            key="model",
            cure="give the torch.nn.Module that is trained, or the DDP around it",
        )


def refuse_untrainable(model: nn.Module, *, key: str = "model") -> None:
    """Refuse a network without trained parameters, or with some that no method can perturb.

    ``key``: the argument or setting that names the network.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ConfigError(
                f"{name} has no shape before its lazy module has seen an input",
                key=key,
                cure="pass a batch through the network first, or give the module its sizes",
            )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigError(
                f"{name or 'it'} is a ScriptModule, whose BatchNorm nobody finds",
                key=key,
                cure="give the network without torch.jit",
            )
    named = dict(model.named_parameters())
    if not named:
        raise ConfigError("it has no parameters", key=key, cure="give the network to train")
    trained = {name: param for name, param in named.items() if param.requires_grad}
    if not trained:
        raise ConfigError(
            f"all parameters are frozen, such as {next(iter(named))}",
            key=key,
            cure="set requires_grad of those that are to be trained",
        )
    for name, param in trained.items():
        if param.is_complex():
            raise ConfigError(
                f"{name} is complex, and noise and ascent are real",
                key=key,
                cure="keep its parts in a real parameter, and use torch.view_as_complex in forward",
            )


def common_device(model: nn.Module) -> torch.device:
    """The device that all parameters are on.

    Raises:
        ConfigError: they are on several, or on the meta device.
    """
    places = {param.device: name for name, param in model.named_parameters()}
    if len(places) > 1:
        (first, one), (second, other), *_ = places.items()
        raise ConfigError(
            f"{one} is on {first} and {other} on {second}",
            key="model",
            cure="move all parameters to one device",
        )
    (device,) = places
    if device.type == "meta":
        raise ConfigError(
            f"{places[device]} is on the meta device, so it has no values",
            key="model",
            cure="call to_empty(device=...) and set its values first",
        )
    return device


def refuse_no_rows(rows: Sequence[Rows]) -> None:
    """Refuse a network of which no parameter is perturbed."""
    if not rows:
        raise ConfigError(
            "no trained parameter is left to perturb",
            key="exclude",
            cure="say exclude=[] to perturb biases and norm layers too, or choose sgd",
        )


def refuse_one_slot(method: Method, slots: Sequence[Sequence[Slot]]) -> None:
    """Refuse a mixed method that has one pass in an update: it has no room for both roles."""
    if method.mixed and len(slots) * len(slots[0]) < 2:
        raise ConfigError(
            "a mixed method needs a clean and a perturbed pass, and an update has one pass",
            key="micro_batches",
            cure="say micro_batches=2 and give each pass half of the batch, or choose rwp",
        )


def refuse_sharded(model: nn.Module) -> None:
    """Refuse parameters of which a rank holds a part only."""
    for module in model.modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise _sharded("FSDP", type(module.module).__name__)
    for name, param in model.named_parameters():
        kind = None
        if getattr(param, "_is_flat_param", False):
            kind = "FSDP"
        elif hasattr(param, "ds_id"):
            kind = "ZeRO stage 3"
        elif hasattr(param, "placements"):
            kind = "FSDP2 or tensor parallelism"
        if kind:
            raise _sharded(kind, name)


def _sharded(kind: str, what: str) -> ConfigError:
    return ConfigError(
        f"{kind} shards {what}, and a perturbation needs whole parameters",
        key="model",
        cure="use DistributedDataParallel, or DeepSpeed up to stage 2 by `rwp-dist train`",
    )


def refuse_subgroup(ddp: DistributedDataParallel, world_size: int) -> None:
    """Refuse a DDP over some of the ranks: roles are shared out over all of them."""
    if ddp.process_group.size() != world_size:
        raise ConfigError(
            f"DDP averages over {ddp.process_group.size()} of {world_size} ranks",
            key="model",
            cure="give DDP the group of all ranks",
        )


def refuse_mixed_batchnorm(model: nn.Module, method: Method) -> None:
    """Refuse SyncBatchNorm in a mixed method: it would mix clean and perturbed batches."""
    if method.mixed and any(isinstance(m, nn.SyncBatchNorm) for m in model.modules()):
        raise ConfigError(
            "SyncBatchNorm would normalise clean and perturbed passes by one common batch",
            key="model",
            cure="use BatchNorm, whose statistics Perturbed averages over the ranks",
        )


def choose_strength(method: Method, sigma: Strength | None, rho: Strength | None) -> Strength:
    """The strength of a method, or its default; 0 for a method without.

    Raises:
        ConfigError: one was given that the method does not have, or it is no strength.
    """
    given = {"sigma": sigma, "rho": rho}
    for key, value in given.items():
        if value is None:
            continue
        if key != method.strength:
            cure = f"give {method.strength}" if method.strength else "leave it out"
            raise ConfigError("this method has none", key=key, cure=cure)
        if not (callable(value) or (_is_number(value) and 0.0 <= value < math.inf)):
            raise _not_allowed(key, value, "choose a number from 0 up, or a function of the step")
    if method.strength is None:
        return 0.0
    value = given[method.strength]
    return method.default_strength if value is None else value


def check_options(**options: Any) -> None:
    """Refuse values that would train something else than their user means.

    Raises:
        ConfigError: names the first that is wrong.
    """
    for key, value in options.items():
        is_right, cure = RIGHT[key]
        if not is_right(value):
            raise _not_allowed(key, value, cure)


def _not_allowed(key: str, value: object, cure: str) -> ConfigError:
    return ConfigError(f"{value!r} is not allowed", key=key, cure=cure)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in names, f"choose from {', '.join(names)}"


RIGHT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lambda_": (lambda v: _is_number(v) and 0.0 <= v <= 1.0, "choose a share from 0 to 1"),
    "micro_batches": (lambda v: isinstance(v, int) and v >= 1, "choose 1 or more"),
    "seed": (lambda v: isinstance(v, int), "choose a whole number"),
    "eta": (lambda v: _is_number(v) and 0.0 <= v < math.inf, "choose a number from 0 up"),
    "beta": (lambda v: _is_number(v) and 0.0 <= v < 1.0, "choose a number from 0 to below 1"),
    "power": (lambda v: _is_number(v) and 0.0 < v < math.inf, "choose a number above 0"),
    "exclude": (lambda v: not isinstance(v, str), 'give a list of patterns, such as ["ndim<2"]'),
    "scale": _one_of(*get_args(Scale)),
    "backend": _one_of("auto", *get_args(Backend)),
}
"""What is allowed for an option, and what to do if it is another."""

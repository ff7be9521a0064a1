"""What ``Perturbed`` refuses, each with its cure."""

import math
from typing import get_args

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.methods import METHODS, Method
from rwp_dist.perturb.normals import Backend
from rwp_dist.perturb.scale import Scale
from rwp_dist.perturb.slots import Slot


def find_method(name: str) -> Method:
    """The method of that name."""
    if name not in METHODS:
        raise ConfigError(
            f"there is no method {name!r}", key="method", cure=f"choose from {', '.join(METHODS)}"
        )
    return METHODS[name]


def refuse_one_slot(method: Method, slots: list[list[Slot]]) -> None:
    """Refuse a mixed method that has one pass in an update: it has no room for both roles."""
    if method.mixed and len(slots) * len(slots[0]) < 2:
        raise ConfigError(
            "a mixed method needs a clean and a perturbed pass, and there is one pass",
            key="micro_batches",
            cure="pass micro_batches=2 and give each pass half of the batch, or choose rwp",
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


def check_options(
    *, lambda_: float, micro_batches: int, strength: object, scale: str, backend: str
) -> None:
    """Refuse values that would train something else than their user means.

    Raises:
        ConfigError: names the first that is wrong.
    """
    number = 0.0 if callable(strength) else strength
    wrong = {
        "lambda_": not 0.0 <= lambda_ <= 1.0,
        "micro_batches": micro_batches < 1,
        "sigma or rho": not (isinstance(number, int | float) and 0.0 <= number < math.inf),
        "scale": scale not in get_args(Scale),
        "backend": backend not in ("auto", *get_args(Backend)),
    }
    cures = {
        "lambda_": "choose a share from 0 to 1",
        "micro_batches": "choose 1 or more",
        "sigma or rho": "choose a number from 0 up, or a function of the step",
        "scale": f"choose from {', '.join(get_args(Scale))}",
        "backend": f"choose from auto, {', '.join(get_args(Backend))}",
    }
    for key, is_wrong in wrong.items():
        if is_wrong:
            raise ConfigError("this value is not allowed", key=key, cure=cures[key])

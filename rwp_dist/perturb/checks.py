"""What ``Perturbed`` refuses, each with its cure."""

from torch import nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.methods import METHODS, Method
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
    for name, param in model.named_parameters():
        kind = None
        if getattr(param, "_is_flat_param", False):
            kind = "FSDP"
        elif hasattr(param, "ds_id"):
            kind = "ZeRO stage 3"
        elif hasattr(param, "placements"):
            kind = "FSDP2 or tensor parallelism"
        if kind:
            raise ConfigError(
                f"{kind} shards the parameter {name}, and a perturbation needs whole ones",
                key="model",
                cure="use DistributedDataParallel, or DeepSpeed up to stage 2 by `rwp-dist train`",
            )

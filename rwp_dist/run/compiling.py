"""The network's training passes as code that torch generates (``run.compile``)."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import RecompileError, TorchDynamoException
from torch._inductor.exc import InvalidCxxCompiler

from rwp_dist.base.errors import ConfigError
from rwp_dist.engine.engine import Engine
from rwp_dist.perturb import Perturbed
from rwp_dist.perturb.statistics import frozen_statistics, tracking_layers

TORCH = str(Path(torch.__file__).parent)


def compile_network(engine: Engine, perturbed: Perturbed, batches: Sequence[Tensor]) -> None:
    """Compile the network in place, and try the passes of this rank; leaves no trace in it.

    A pass is one graph, which reads the weights where they lie when it begins. So names, hooks and
    checkpoints stay as they are, and perturbing, which happens between passes, compiles nothing
    anew.

    Args:
        engine: whose network is in training mode.
        perturbed: whose passes they are.
        batches: images of one pass, ``[B, C, H, W]``, as the network gets them; one for each size
            that the run has.

    Raises:
        ConfigError: torch cannot compile this network, or cannot compile on this machine.
    """
    network, trained = engine.module, list(engine.trained.values())
    torch.compiler.reset()  # torch keeps few graphs for a class, and a sweep trains many networks
    network.compile(fullgraph=True, dynamic=False, options=_options(batches[0].device))
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    layers = tracking_layers(network)
    devices = [batches[0].device] if batches[0].is_cuda else []
    passes = list(product(batches, _kinds_of_pass(perturbed)))
    try:
        with torch.random.fork_rng(devices=devices), _room_for_graphs(len(passes)):
            for images, frozen in passes:
                for again in (False, True):
                    with (
                        torch._dynamo.config.patch(error_on_recompile=again),
                        frozen_statistics(layers if frozen else []),
                    ):
                        logits = engine.forward_only(images)
                        torch.autograd.grad(logits.sum(), trained, allow_unused=True)
    except TorchDynamoException as error:
        raise _refused(error) from error
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            "the GPU has too little memory for a pass of the compiled network",
            key="batch.per_rank",
            cure="lower it, or set run.compile to false",
        ) from error
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)


def _room_for_graphs(count: int) -> AbstractContextManager[None]:
    """While it lasts, torch compiles a network this many times at least.

    It looks at its limits where it compiles alone: a step, which compiles nothing, needs none.
    """
    config = torch._dynamo.config
    raised = {
        limit: max(getattr(config, limit), count)
        for limit in ("recompile_limit", "accumulated_recompile_limit")
    }
    patched: AbstractContextManager[None] = config.patch(raised)
    return patched


def _options(device: torch.device) -> dict[str, Any]:
    """Of torch's compiler."""
    options: dict[str, Any] = {}
    if "deterministic" in torch._inductor.list_options():  # older versions have none
        # Choose kernels by rules alone: chosen by time, a resumed run might have others.
        options["deterministic"] = True
    if device.type == "cpu":
        # Convolutions stay as they are: channels last, those of small images take longer.
        options["layout_optimization"] = False
    return options


def _kinds_of_pass(perturbed: Perturbed) -> set[bool]:
    """Whether BatchNorm's running statistics are frozen in a pass of this rank; each is a graph."""
    method = perturbed.method
    if method.ascends:
        return {False, True}
    return {slot.perturbed and method.has_clean_pass for slot in perturbed.my_slots}


def _refused(error: TorchDynamoException) -> ConfigError:
    said, cure = str(error).partition("\n")[0].rstrip("."), "set it to false"
    if isinstance(getattr(error, "inner_exception", None), InvalidCxxCompiler):
        problem = "torch.compile needs a C++ compiler, and there is none"
        cure = f"install one (apt install g++), set CXX to yours, or {cure}"
    elif isinstance(error, RecompileError):
        changed = re.search(r"- \d+/\d+: (.*?) *(?:#|$)", str(error), re.MULTILINE)
        why = changed[1] if changed else said
        problem = f"each pass would be compiled anew, as the network changes ({why} held once)"
        cure += ", or keep in buffers what changes"
    else:
        stack = getattr(error, "real_stack", None) or []
        own = [frame for frame in stack if not frame.filename.startswith(TORCH)]
        where = f", {Path(own[-1].filename).name} line {own[-1].lineno}" if own else ""
        problem = f"torch cannot compile this network ({said}{where})"
        cure += ", or change the network's forward" if stack else ""
    return ConfigError(problem, key="run.compile", cure=cure)

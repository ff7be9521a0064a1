"""A network is tried before the first step: what it cannot do is said in one sentence."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DataParallel, DistributedDataParallel

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.named import is_named
from rwp_dist.config import Settings
from rwp_dist.perturb.checks import refuse_untrainable

COMMON_SIZES = (8, 32, 64, 128, 224, 299)
"""Images that are tried, in pixels, to tell which a network takes."""

META = torch.device("meta")
"""Where tensors have shapes and no values, so that a pass costs nothing."""


def check_parameters(model: nn.Module, name: str) -> None:
    """Refuse a network whose parameters cannot be trained.

    Args:
        model: the network, perhaps on the meta device.
        name: its ``model.name``.

    Raises:
        ConfigError: names the parameter or the module, and the cure.
    """
    refuse_untrainable(model, key="model.name")
    if isinstance(model, DataParallel | DistributedDataParallel):
        raise _refused(f"{name} is wrapped in {type(model).__name__}", "return the network itself")
    for param_name, param in model.named_parameters():
        if param.requires_grad and param.dtype != torch.float32:
            raise _refused(
                f"{param_name} is of {_dtype(param)}, and trained parameters are of float32",
                "return network.float(), or freeze it; precision=bf16 computes in bfloat16",
            )
        if any(
            size > 1 and not step for size, step in zip(param.shape, param.stride(), strict=True)
        ):
            raise _refused(
                f"{param_name} is expanded: several of its elements are one in memory",
                "make it a parameter by itself, with clone()",
            )
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise _refused(
                f"{module_name} has sparse gradients, which ranks cannot add up",
                "leave out sparse=True",
            )


def check_trainable(model: nn.Module, settings: Settings, micro_batch: int) -> list[str]:
    """Refuse a network that cannot be trained, before anything is built around it.

    Returns names of trained parameters that take no part in its output.

    Args:
        model: on its device.
        settings: of the run.
        micro_batch: images of one pass.

    Raises:
        ConfigError: names the parameter or the module, and the cure.
    """
    check_parameters(model, settings.model.name)
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm) and next(model.parameters()).is_cpu:
            raise _refused(
                f"{name} is a SyncBatchNorm, which works on GPUs alone",
                "use BatchNorm, or set run.device to cuda",
            )
    return try_network(model, settings, micro_batch, training=True)


def try_network(
    model: nn.Module,
    settings: Settings,
    num_images: int = 2,
    *,
    training: bool = False,
    sizes: Sequence[int] = (),
) -> list[str]:
    """Pass images of every size through a network; leaves no trace in it.

    Returns names of trained parameters that take no part in it, if ``training``.

    The images have shapes and no values, unless the network cannot do with these.

    Args:
        model: on its device.
        settings: what the images are like.
        num_images: at once.
        training: in training mode, with gradients.
        sizes: sides of the images, in pixels; those of training or of evaluation, unless given.

    Raises:
        ConfigError: it does not take such images, or returns something else than logits.
    """
    sizes = sizes or (settings.data.train_sizes if training else (settings.eval_size,))
    return [_try_size(model, settings, num_images, training, size) for size in sizes][-1]


def _try_size(
    model: nn.Module, settings: Settings, num_images: int, training: bool, size: int
) -> list[str]:
    shape = (num_images, settings.data.channels, size, size)
    with _in_mode(model, training), torch.set_grad_enabled(training):
        try:
            try:
                output, tensors = _output(model, shape, META)
            except Exception:  # it may look at values, or have tensors that are no buffers
                own = next(model.parameters(), torch.empty(0)).device
                output, tensors = _output(model, shape, own)
        except Exception as error:  # a network of the user's may raise anything
            raise _failed(model, settings, shape, training, error) from error
    logits = _check_output(output, settings, num_images, training)
    if not training:
        return []
    used = _leaves(logits)
    return [n for n, p in model.named_parameters() if p.requires_grad and tensors[n] not in used]


def _output(
    model: nn.Module, shape: tuple[int, ...], device: torch.device
) -> tuple[object, dict[str, Tensor]]:
    """What a copy of the network on ``device`` returns, and its tensors by name."""
    with torch.random.fork_rng(devices=[]):
        copies = copies_of(model, device)
        return call_with(model, copies, torch.rand(shape, device=device)), copies


def _leaves(output: Tensor) -> set[Tensor]:
    """Tensors without a history that a gradient of ``output`` would reach."""
    found, seen, open_ = set[Tensor](), set[Any](), [output.grad_fn]
    while open_:
        node = open_.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        open_ += [before for before, _ in node.next_functions]
    return found


def named_once(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of every module, each module under its first name only.

    A tensor that two modules share comes twice.
    """
    for prefix, module in model.named_modules():
        yield from module.named_parameters(prefix, recurse=False, remove_duplicate=False)
        yield from module.named_buffers(prefix, recurse=False, remove_duplicate=False)


def copies_of(model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, by name; what modules share is one copy."""
    named, copies = dict(named_once(model)), dict[Tensor, Tensor]()
    for tensor in named.values():
        if tensor not in copies:
            copy = tensor.detach().to(device, copy=True)
            copies[tensor] = copy.requires_grad_(tensor.requires_grad)
    return {name: copies[tensor] for name, tensor in named.items()}


def call_with(model: nn.Module, tensors: dict[str, Tensor], images: Tensor) -> Any:
    """What the network returns with tensors in place of its own, by the names of ``named_once``."""
    # torch would tie weights itself, but it leaves copies behind in modules with two names.
    return functional_call(model, tensors, (images,), tie_weights=False)


@contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):  # it would talk to the other ranks
            module.eval()
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def _failed(
    model: nn.Module,
    settings: Settings,
    shape: tuple[int, ...],
    training: bool,
    error: Exception,
) -> ConfigError:
    """The error for a network that failed on images ``[B, C, H, W]`` of this shape."""
    name, (num_images, channels, size, _) = settings.model.name, shape
    said = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    module = _module_of(error, model)
    trouble = f"{module}: {said}" if module else said

    def takes(num_images: int, size: int) -> bool:
        try:
            _output(model, (num_images, channels, size, size), META)
        except Exception:
            return False
        return True

    if num_images == 1 and takes(2, size):
        return ConfigError(
            f"{name} cannot be trained with one image in a pass ({trouble})",
            key="batch.per_rank",
            cure="raise it or batch.global, so that a pass has two images or more",
        )
    if size != settings.data.image_size:
        tested = not training and size == settings.evaluation.image_size
        return ConfigError(
            f"{name} does not take images of {size} pixels, as it is built for "
            f"{settings.data.image_size} ({trouble})",
            key="evaluation.image_size" if tested else "data.sizes",
            cure=f"set it to {'null' if tested else '[]'}, or choose a network that takes every "
            "size, such as a convolutional one",
        )
    fits = next((other for other in COMMON_SIZES if takes(num_images, other)), None)
    if is_named(name) and fits is None:
        return _refused(
            f"{name} fails with images of shape {list(shape)} ({trouble})",
            "mend its forward, or set data.channels and data.image_size to what it takes",
        )
    return ConfigError(
        f"{name} does not take images of {size} pixels ({trouble})",
        key="data.image_size",
        cure=f"{f'set it to {fits}, or ' if fits else ''}choose another model.name",
    )


def _module_of(error: Exception, model: nn.Module) -> str:
    """The innermost module in whose method an error was raised; empty: the network's own."""
    names = {id(m): f"{type(m).__name__} {name}" for name, m in model.named_modules() if name}
    owners = [id(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((names[owner] for owner in reversed(owners) if owner in names), "")


def _check_output(output: object, settings: Settings, num_images: int, training: bool) -> Tensor:
    """The logits, if that is what it is."""
    name, wanted = settings.model.name, (num_images, settings.model.num_classes)
    where = "" if training else " in evaluation mode"
    if not isinstance(output, Tensor):
        raise _refused(
            f"{name} returns a {type(output).__name__}{where}, and its loss takes a tensor of "
            "logits",
            "return the logits alone",
        )
    if tuple(output.shape) != wanted:
        cure = "return a row of num_classes logits for each image"
        if output.ndim == 2 and len(output) == num_images:
            cure = f"set model.num_classes to {output.shape[1]}, or have its last layer follow it"
        raise _refused(
            f"{name} returns {list(output.shape)} for {num_images} images{where}, and its loss "
            f"takes {list(wanted)}",
            cure,
        )
    if not output.is_floating_point():
        raise _refused(f"{name} returns {_dtype(output)}{where}", "return logits, not classes")
    if training and not output.requires_grad:
        raise _refused(
            f"no trained parameter has a part in what {name} returns",
            "set requires_grad of parameters that it uses, and detach nothing",
        )
    return output


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _refused(problem: str, cure: str) -> ConfigError:
    return ConfigError(problem, key="model.name", cure=cure)

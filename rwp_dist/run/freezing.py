"""Parameters that are not trained (``model.freeze``)."""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.rows import check_patterns, matches
from rwp_dist.perturb.statistics import keep_statistics


def freeze_parameters(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters that patterns name (``perturb.rows.matches``), in place.

    Without gradients they are neither perturbed, reduced, decayed nor updated. A BatchNorm of which
    they are all the parameters is frozen with its running statistics, by which it normalises from
    then on, as it was trained before: statistics of other images would change a layer that is to
    stay as it is.

    Raises:
        ConfigError: a pattern names no parameter, or they name all.
    """
    if not patterns:
        return
    named = dict(model.named_parameters())
    check_patterns(named, patterns, key="model.freeze")
    frozen = {param for name, param in named.items() if matches(name, param.ndim, patterns)}
    for param in frozen:
        param.requires_grad_(False)
    if not any(param.requires_grad for param in named.values()):
        raise ConfigError(
            "it names all parameters, so nothing is left to train",
            key="model.freeze",
            cure="leave out the pattern of those that are to be trained, such as the head's",
        )
    for layer in model.modules():
        own = set(layer.parameters(recurse=False))
        if isinstance(layer, _NormBase) and layer.track_running_stats and own and own <= frozen:
            keep_statistics(layer)

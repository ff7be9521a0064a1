"""The layers of a network from the names of its parameters: the stem lowest, the head highest."""

import re
from dataclasses import dataclass

from torch import nn

from rwp_dist.base.errors import ConfigError


@dataclass(frozen=True)
class Family:
    """How networks of one kind name their parameters: patterns of how a name begins."""

    stem: str
    """What comes before the blocks: layer 0."""
    block: str
    """A block. The numbers in its name give its place."""
    head: str
    """The classifier: the highest layer."""
    last: str = "(?!)"  # nothing
    """What belongs to the last block: a norm behind it."""


FAMILIES = (
    Family(  # ResNets of torchvision
        stem=r"(conv1|bn1)\.", block=r"layer(\d+)\.(\d+)\.", head=r"fc\."
    ),
    Family(  # vision transformers of torchvision
        stem=r"class_token|conv_proj\.|encoder\.pos_embedding",
        block=r"encoder\.layers\.encoder_layer_(\d+)\.",
        last=r"encoder\.ln\.",
        head=r"heads\.",
    ),
    Family(  # plain vision transformers that have timm's names
        stem=r"cls_token|class_token|reg_token|pos_embed|patch_embed|norm_pre\.",
        block=r"blocks\.(\d+)\.",
        last=r"norm\.",
        head=r"(head|fc_norm)\.",
    ),
)
"""Networks whose layers are known. Those of timm number theirs by themselves; the rule is theirs:
each block is a layer."""


def number_layers(model: nn.Module, model_name: str) -> dict[str, int]:
    """The layer of each parameter by name, from 0 for the stem up to the head.

    Args:
        model: the network.
        model_name: what the user calls it.

    Raises:
        ConfigError: the names of its parameters are those of no family.
    """
    names = [name for name, _ in model.named_parameters()]
    of_timm = getattr(model, "group_matcher", None)
    if of_timm is not None:
        from timm.models import group_parameters

        numbered: dict[str, int] = group_parameters(model, of_timm(coarse=False), reverse=True)
        return numbered
    for family in FAMILIES:
        found = _number(names, family)
        if found is not None:
            return found
    raise ConfigError(
        f"the layers of {model_name} cannot be numbered by the names of its parameters "
        f"({', '.join(names[:3])}, ...)",
        key="optimizer.layer_decay",
        cure="set it to 1 and optimizer.lr_factors for parts of the network, or choose a ResNet or "
        "a vision transformer",
    )


def _number(names: list[str], family: Family) -> dict[str, int] | None:
    """The layer of each parameter; None: the network is not of this family."""
    matched = {name: re.match(family.block, name) for name in names}
    blocks = {
        name: tuple(map(int, found.groups()))
        for name, found in matched.items()
        if found is not None
    }
    places = {block: place for place, block in enumerate(sorted(set(blocks.values())), start=1)}
    top = len(places)
    layers: dict[str, int] = {}
    for name in names:
        if name in blocks:
            layers[name] = places[blocks[name]]
        elif re.match(family.stem, name):
            layers[name] = 0
        elif re.match(family.last, name):
            layers[name] = top
        elif re.match(family.head, name):
            layers[name] = top + 1
        else:
            return None
    return layers if top else None

"""What ``augment.auto`` may name: a policy is a function of an image and keyed draws."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from rwp_dist.base.keyed import Keyed
from rwp_dist.data.image.augmix import AugMix
from rwp_dist.data.image.auto import AutoAugment
from rwp_dist.data.image.three import three_augment

Policy = Callable[[Tensor, Keyed], Tensor]
"""From uint8 ``[C, H, W]`` and draws to an image of the same shape."""


class Options(NamedTuple):
    """What a policy may depend on; the settings of these names."""

    size: int
    """Side of the images, in pixels."""
    num_ops: int
    magnitude: int
    severity: int


POLICIES: dict[str, Callable[[Options], Policy]] = {
    "randaugment": lambda o: AutoAugment("randaugment", o.size, o.num_ops, o.magnitude),
    "trivial": lambda o: AutoAugment("trivial", o.size, o.num_ops, o.magnitude),
    "three": lambda o: three_augment,
    "augmix": lambda o: AugMix(o.size, o.severity),
}
"""Every policy by its name in ``augment.auto``."""

"""From the encoded bytes of an image to the input of a network.

Augmentation is a pure function of the image and its key (seed, epoch, sample). Importing
this package imports no torch: ``rwp_dist.shards`` asks it which images are good.
"""

from typing import TYPE_CHECKING

from rwp_dist.base.keyed import Keyed
from rwp_dist.base.lazy import lazy_names

if TYPE_CHECKING:
    from rwp_dist.data.image.decode import Decoder
    from rwp_dist.data.image.mix import Mixer
    from rwp_dist.data.image.normalise import Normalise
    from rwp_dist.data.image.optional import optional_module
    from rwp_dist.data.image.pillow import (
        GREY,
        TURNS,
        UndecodableImage,
        converted,
        has_alpha,
        on_background,
        open_image,
        orientation,
        why_undecodable,
    )
    from rwp_dist.data.image.pixels import from_pixels, resize
    from rwp_dist.data.image.regions import random_resized_crop
    from rwp_dist.data.image.tiers import Tier
    from rwp_dist.data.image.transforms import EvalTransform, TrainTransform
else:
    __getattr__ = lazy_names(
        __name__,
        GREY="pillow",
        TURNS="pillow",
        Decoder="decode",
        EvalTransform="transforms",
        Mixer="mix",
        Normalise="normalise",
        Tier="tiers",
        TrainTransform="transforms",
        UndecodableImage="pillow",
        converted="pillow",
        from_pixels="pixels",
        has_alpha="pillow",
        on_background="pillow",
        open_image="pillow",
        optional_module="optional",
        orientation="pillow",
        random_resized_crop="regions",
        resize="pixels",
        why_undecodable="pillow",
    )

__all__ = [
    "GREY",
    "TURNS",
    "Decoder",
    "EvalTransform",
    "Keyed",
    "Mixer",
    "Normalise",
    "Tier",
    "TrainTransform",
    "UndecodableImage",
    "converted",
    "from_pixels",
    "has_alpha",
    "on_background",
    "open_image",
    "optional_module",
    "orientation",
    "random_resized_crop",
    "resize",
    "why_undecodable",
]

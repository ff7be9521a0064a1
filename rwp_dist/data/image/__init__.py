"""From the encoded bytes of an image to the input of a network.

Augmentation is a pure function of the image and its key (seed, epoch, sample).
"""

from rwp_dist.base.keyed import Keyed
from rwp_dist.data.image.decode import Decoder, Tier
from rwp_dist.data.image.mix import Mixer
from rwp_dist.data.image.normalise import Normalise
from rwp_dist.data.image.optional import optional_module
from rwp_dist.data.image.pixels import UndecodableImage, from_pixels, resize
from rwp_dist.data.image.regions import random_resized_crop
from rwp_dist.data.image.transforms import EvalTransform, TrainTransform

__all__ = [
    "Decoder",
    "EvalTransform",
    "Keyed",
    "Mixer",
    "Normalise",
    "Tier",
    "TrainTransform",
    "UndecodableImage",
    "from_pixels",
    "optional_module",
    "random_resized_crop",
    "resize",
]

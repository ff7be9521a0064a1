"""Augmentation as a pure function of an image and its key (seed, epoch, sample)."""

from rwp_dist.base.keyed import Keyed
from rwp_dist.data.image.transforms import EvalTransform, TrainTransform

__all__ = ["EvalTransform", "Keyed", "TrainTransform"]

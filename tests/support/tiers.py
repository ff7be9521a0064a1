"""The decoders that this machine has."""

from rwp_dist.data.image.tiers import FASTEST_FIRST, why_unusable

TIERS = [tier for tier in FASTEST_FIRST if why_unusable(tier) is None]

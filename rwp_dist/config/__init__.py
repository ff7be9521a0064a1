"""The one tree of settings. Imports no torch."""

from rwp_dist.config.derive import Split, deepspeed_config, split_batch
from rwp_dist.config.grid import expand
from rwp_dist.config.keys import affects, known_keys
from rwp_dist.config.load import (
    Difference,
    differences,
    dump_settings,
    get_setting,
    list_variants,
    load_settings,
)
from rwp_dist.config.tree import Settings
from rwp_dist.config.types import Affects

__all__ = [
    "Affects",
    "Difference",
    "Settings",
    "Split",
    "affects",
    "deepspeed_config",
    "differences",
    "dump_settings",
    "expand",
    "get_setting",
    "known_keys",
    "list_variants",
    "load_settings",
    "split_batch",
]

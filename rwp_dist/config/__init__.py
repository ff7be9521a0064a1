"""The one tree of settings. Imports no torch."""

from rwp_dist.config.derive import Split, deepspeed_config, split_batch
from rwp_dist.config.grid import expand
from rwp_dist.config.load import (
    differences,
    dump_settings,
    get_setting,
    known_keys,
    list_variants,
    load_settings,
)
from rwp_dist.config.tree import Settings

__all__ = [
    "Settings",
    "Split",
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

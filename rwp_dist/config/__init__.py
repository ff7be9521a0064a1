"""The one tree of settings. Imports no torch."""

from rwp_dist.config.grid import expand
from rwp_dist.config.keys import affects, known_keys
from rwp_dist.config.load import list_variants, load_settings
from rwp_dist.config.split import Split, split_batch
from rwp_dist.config.tree import Settings
from rwp_dist.config.types import Affects
from rwp_dist.config.values import (
    Difference,
    differences,
    dump_settings,
    get_setting,
    values_by_key,
)

__all__ = [
    "Affects",
    "Difference",
    "Settings",
    "Split",
    "affects",
    "differences",
    "dump_settings",
    "expand",
    "get_setting",
    "known_keys",
    "list_variants",
    "load_settings",
    "split_batch",
    "values_by_key",
]

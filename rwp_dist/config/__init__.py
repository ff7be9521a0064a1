"""The one tree of settings. Imports no torch."""

from rwp_dist.config.change import with_changes
from rwp_dist.config.describe import describe_settings
from rwp_dist.config.grid import check_grid, expand, left_out
from rwp_dist.config.keys import affects, known_keys
from rwp_dist.config.load import (
    depends_on,
    list_variants,
    load_settings,
    read_settings,
    source_name,
)
from rwp_dist.config.places import unreachable_places, with_absolute_paths
from rwp_dist.config.split import Split, split_batch
from rwp_dist.config.tree import Settings
from rwp_dist.config.types import LIBRARIES, TIMM, TORCHVISION, Affects
from rwp_dist.config.unused import unused_keys, uses
from rwp_dist.config.values import (
    dump_settings,
    get_setting,
    values_by_key,
)

__all__ = [
    "LIBRARIES",
    "TIMM",
    "TORCHVISION",
    "Affects",
    "Settings",
    "Split",
    "affects",
    "check_grid",
    "depends_on",
    "describe_settings",
    "dump_settings",
    "expand",
    "get_setting",
    "known_keys",
    "left_out",
    "list_variants",
    "load_settings",
    "read_settings",
    "source_name",
    "split_batch",
    "unreachable_places",
    "unused_keys",
    "uses",
    "values_by_key",
    "with_absolute_paths",
    "with_changes",
]

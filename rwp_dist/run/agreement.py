"""Ranks agree on what they train, before anything is built: settings, data, code, run directory."""

import secrets
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Affects, Settings
from rwp_dist.process import torchrun
from rwp_dist.process.group import all_equal, from_main, gathered, same_on_all_ranks
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import UPDATES, Identity, affects_of, differences, digest
from rwp_dist.record.lock import cannot_be_written

DIGESTS = ("data.train.id", "data.val.id", "loss.teacher.id")

MOST_TOLD = 5
"""Differences that one message names."""


def agree(identity: Identity, *, allow_mixed_code: bool) -> list[str]:
    """Refuse to start unless all ranks have one identity. A collective: one small reduction.

    What affects nothing may differ, because rank 0's settings count for all ranks. So may the
    places of data, because their content is compared.

    Args:
        identity: this rank's.
        allow_mixed_code: whether versions and commits may differ.

    Returns:
        What differs and is allowed to, for the record; the same on all ranks.

    Raises:
        ConfigError: it differs from rank 0's, on any rank; names the node and both values.
    """
    kinds = UPDATES | {Affects.EVALUATION} | (set() if allow_mixed_code else {Affects.CODE})
    if dist.get_world_size() == 1:
        return []
    if all_equal(digest(identity, kinds)):
        if not allow_mixed_code or all_equal(digest(identity, {Affects.CODE})):
            return []
        told = gathered(_against_rank_0(identity, {Affects.CODE}))
        return list(dict.fromkeys(text for own in told for text in own.values()))[:MOST_TOLD]
    found = _against_rank_0(identity, kinds)
    with same_on_all_ranks():
        if found:
            raise _refusal(found)
    return []


def _against_rank_0(identity: Identity, kinds: Collection[Affects]) -> dict[str, str]:
    """A sentence for each key in which this rank differs from rank 0. A collective."""
    node, rank = torchrun.node_name(), dist.get_rank()
    first, main_node = from_main(lambda: (identity, node))
    told = {}
    for found in differences(first, identity, kinds):
        if found.key in DIGESTS:  # of which folders?
            place = found.key.removesuffix(".id")
            one, other = f"{found.one} ({first[place]})", f"{found.other} ({identity[place]})"
            found = replace(found, one=one, other=other)
        told[found.key] = found.sentence(f"on rank 0 ({main_node})", f"on rank {rank} ({node})")
    return told


def _refusal(told: dict[str, str]) -> ConfigError:
    more = f", and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    only_code = all(affects_of(key) is Affects.CODE for key in told)
    return ConfigError(
        f"ranks differ in {', '.join(list(told.values())[:MOST_TOLD])}{more}",
        cure="install one version on all nodes, or set run.allow_mixed_code to true"
        if only_code
        else "start all ranks with the same settings, data and code",
    )


def own_places(common: Settings, own: Settings) -> Settings:
    """Rank 0's settings, but with the places of data and teacher that this rank was started
    with."""
    data = {name: getattr(own.data, name) for name in ("train", "val", "mix")}
    loss = common.loss.model_copy(update={"teacher": own.loss.teacher})
    return common.model_copy(update={"data": common.data.model_copy(update=data), "loss": loss})


def check_shared(run_dir: RunDir) -> None:
    """Refuse a run directory that is another folder on some node. A collective.

    Rank 0 leaves a file there. Its name is new, so that no network file system remembers that it
    was missing.

    Raises:
        ConfigError: a rank does not see it.
    """
    if dist.get_world_size() == 1:
        return
    name, main_node = from_main(lambda: (f".seen-{secrets.token_hex(8)}", torchrun.node_name()))
    mark = run_dir.path / name
    try:
        with same_on_all_ranks():
            if dist.get_rank() == 0:
                _leave(mark)
        with same_on_all_ranks():
            if not mark.exists():
                raise ConfigError(
                    f"rank {dist.get_rank()} on {torchrun.node_name()} does not see "
                    f"{run_dir.path} as rank 0 on {main_node} does",
                    key="run.dir",
                    cure="set it to a folder on a disk that all nodes share",
                )
    finally:
        if dist.get_rank() == 0:
            mark.unlink(missing_ok=True)


def _leave(mark: Path) -> None:
    try:
        mark.touch()
    except OSError as error:
        raise cannot_be_written(mark.parent, error) from None

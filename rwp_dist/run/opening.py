"""Open a run on all ranks: they agree on what it is, and rank 0 takes its directory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from rwp_dist.base.errors import RwpError
from rwp_dist.config import Settings
from rwp_dist.data.chosen import data_identity
from rwp_dist.process.group import from_main, same_on_all_ranks
from rwp_dist.process.rank import begin_log
from rwp_dist.record.code import commit_of
from rwp_dist.record.directory import RunDir
from rwp_dist.record.ending import write_refusal
from rwp_dist.record.identity import Identity, identity_of, settings_identity
from rwp_dist.record.open import open_run
from rwp_dist.record.resume import changes_of, continued_settings, goes_on_changed
from rwp_dist.record.weights import teacher_identity
from rwp_dist.run.agreement import agree, check_shared, own_places
from rwp_dist.run.initial import weights_identity


class OpenRun(NamedTuple):
    """A run that this process group trains from here on."""

    run_dir: RunDir
    settings: Settings
    """Rank 0's, with this rank's places of data."""
    identity: Identity
    """Of this attempt."""
    mixed_code: list[str]
    """What its ranks have of different versions (``agreement.agree``)."""


def finished_summary(settings: Settings) -> dict[str, Any] | None:
    """The summary of a run that is finished; None: it is not. A collective; nothing is written.

    Raises:
        ConfigError: the directory holds another run.
    """
    with same_on_all_ranks():
        summary = _finished_summary(settings) if dist.get_rank() == 0 else None
    return from_main(lambda: summary)


def _finished_summary(settings: Settings) -> dict[str, Any] | None:
    run_dir = RunDir(str(settings.run.dir))
    now = settings_identity(continued_settings(run_dir, settings), dist.get_world_size())
    changes_of(run_dir, now)  # refuses another run, finished or not, before its data are read
    summary = run_dir.read_summary()
    if summary is None or goes_on_changed(run_dir, settings):
        return None
    with suppress(RwpError):  # its data may be gone by now
        now |= data_identity(settings) | teacher_identity(settings)
    changed = changes_of(run_dir, now)
    top1 = summary.get("top1")
    shown = "" if top1 is None else f", top-1 {top1:.2f} %"
    print(f"{run_dir.path}: finished already{shown}", flush=True)
    if changed:
        print(f"This start changes nothing of it, but differs: {'; '.join(changed)}.", flush=True)
    return summary


@contextmanager
def opened_run(settings: Settings) -> Iterator[OpenRun]:
    """Begin an attempt at a run that is not finished, and keep its directory inside the block.

    Every rank calls it with the settings that it was started with.

    Raises:
        ConfigError: ranks differ, or the directory holds another run, of which nothing is changed,
            or is none that can be written to.
        DataError: the data cannot be read.
        RunDirError: the directory is in use, or its disk is full or fails.
    """
    is_main, ranks = dist.get_rank() == 0, dist.get_world_size()
    place, mixed = from_main(lambda: (settings.run.dir, settings.run.allow_mixed_code))
    run_dir, opened = RunDir(str(place)), settings
    with ExitStack() as stack:
        try:
            with same_on_all_ranks():
                data, git = data_identity(settings), commit_of(run_dir, dirty=is_main)
                teacher = teacher_identity(settings)
                began = weights_identity(run_dir, settings) if is_main else {}
            others = teacher | from_main(lambda: began)
            identity = identity_of(settings, ranks=ranks, data=data | others, git=git)
            mixture = agree(identity, allow_mixed_code=mixed)
            with same_on_all_ranks():
                if is_main:
                    stack.enter_context(run_dir.locked())
            check_shared(run_dir)
        except RwpError as error:
            stack.close()
            if is_main:
                write_refusal(run_dir, error)
                run_dir.remove_if_empty()
            raise
        with same_on_all_ranks():
            if is_main:
                opened = continued_settings(run_dir, settings)
                identity |= settings_identity(opened, ranks) | others
                gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
                open_run(opened, identity, gpus=gpus, git=git)
                begin_log(run_dir.path)
        opened, identity = from_main(lambda: (opened, identity))
        yield OpenRun(run_dir, own_places(opened, settings), identity, mixture)

"""Samples that could not be read: listed in the run's directory, counted over all ranks."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import write_text
from rwp_dist.data.batch import BadRecord
from rwp_dist.process.consensus import Agreed
from rwp_dist.process.group import same_on_all_ranks

FOLDER = "bad_samples"
"""In the run's directory."""


class BadSamples:
    """Bad samples of training: each rank's list, ``bad_samples/rank-<rank>.tsv``, and their total.

    A sample counts when the loop takes its step, not when a worker reads ahead, so that the total
    goes on exactly across a resume.
    """

    def __init__(self, run_dir: Path, limit: int) -> None:
        """``limit``: most samples that may be unreadable."""
        self.total = 0
        self._limit = limit
        self._folder = run_dir / FOLDER
        self._path = self._folder / f"rank-{dist.get_rank()}.tsv"
        # Steps between the checkpoint and a crash come again, perhaps on other ranks.
        self._listed = _listed(self._folder)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]

    def count(self, records: Sequence[BadRecord], agreed: Agreed) -> None:
        """Count the bad samples of the step that begins now, and list this rank's.

        Raises:
            DataError: there are more than the limit, or a rank cannot have a shard; on all ranks
                at the same step.
        """
        samples = [record for record in records if not record.fatal]
        if samples:
            self._list(samples)
        if agreed.bad:
            with same_on_all_ranks():
                for record in records:
                    if record.fatal:
                        raise record.fatal
        self.total += agreed.bad
        if agreed.bad and self.total > self._limit:
            raise DataError(
                f"{self.total:,} samples could not be read, more than the limit of "
                f"{self._limit:,}; {self._folder} lists them",
                key="data.max_bad_samples",
                cure="write those shards again, or raise the limit",
            )

    def _list(self, records: Sequence[BadRecord]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            for record in records:
                if (record.step, record.sample) in self._listed:
                    continue
                file.write(_line(record))


def list_evaluation(run_dir: Path, records: Sequence[BadRecord]) -> None:
    """Write what the last evaluation left out to ``bad_samples/evaluation.tsv``, if anything."""
    path = run_dir / FOLDER / "evaluation.tsv"
    if records:
        write_text(path, "".join(map(_line, records)))
    else:
        path.unlink(missing_ok=True)


def _line(record: BadRecord) -> str:
    return f"{record.step}\t{record.sample}\t{' '.join(record.reason.split())}\n"


def _listed(folder: Path) -> set[tuple[int, int]]:
    """Step and sample of all lines of all ranks."""
    found = set()
    for path in folder.glob("rank-*.tsv"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            # The last line of a crash may be cut.
            if match := re.fullmatch("([0-9]{1,18})\t([0-9]{1,18})\t.*", line):
                found.add((int(match[1]), int(match[2])))
    return found

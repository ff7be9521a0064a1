"""Samples that could not be read: listed by every rank, counted by all together."""

from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from rwp_dist.consensus import Agreed
from rwp_dist.data.batch import BadRecord
from rwp_dist.errors import DataError


class BadSamples:
    """The run's list, ``bad_samples/rank-<rank>.tsv``, and its total.

    Counted when the trainer takes a step, not when a worker reads ahead, so that the total goes on
    exactly across a resume.
    """

    def __init__(self, run_dir: Path, limit: int, total: int) -> None:
        """``total``: what the checkpoint counted."""
        self.total = total
        self._limit = limit
        self._folder = run_dir / "bad_samples"
        self._path = self._folder / f"rank-{dist.get_rank()}.tsv"

    def count(self, records: Sequence[BadRecord], agreed: Agreed) -> None:
        """Take up the bad samples of the step that begins now: this rank's list, all ranks' sum.

        Raises:
            DataError: there are more than the limit; on all ranks at the same step.
        """
        if records:
            self._list(records)
        self.total += agreed.bad
        if agreed.bad and self.total > self._limit:
            raise DataError(
                f"{self.total:,} samples could not be read, more than data.max_bad_samples = "
                f"{self._limit:,}; {self._folder} lists them: write those shards again, or raise "
                "data.max_bad_samples."
            )

    def _list(self, records: Sequence[BadRecord]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            for record in records:
                reason = " ".join(record.reason.split())
                file.write(f"{record.step}\t{record.sample}\t{reason}\n")

"""Samples that could not be read: listed in the run's directory, counted over all ranks."""

from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import write_text
from rwp_dist.data.batch import BadRecord
from rwp_dist.process.consensus import Agreed
from rwp_dist.process.group import gathered

FOLDER = "bad_samples"
"""In the run's directory."""


class BadSamples:
    """Those of training: every rank's list, ``bad_samples/rank-<rank>.tsv``, and their total.

    Counted when the trainer takes a step, not when a worker reads ahead, so that the total goes on
    exactly across a resume.
    """

    def __init__(self, run_dir: Path, limit: int, total: int) -> None:
        """``total``: what the checkpoint counted."""
        self.total = total
        self._limit = limit
        self._folder = run_dir / FOLDER
        self._path = self._folder / f"rank-{dist.get_rank()}.tsv"
        # Steps between the checkpoint and a crash come again, perhaps on other ranks.
        self._listed = _listed(self._folder)

    def count(self, records: Sequence[BadRecord], agreed: Agreed) -> None:
        """Take up the bad samples of the step that begins now: this rank's list, all ranks' sum.

        Raises:
            DataError: there are more than the limit, or a rank cannot have a shard; on all ranks
                at the same step.
        """
        samples = [record for record in records if not record.fatal]
        if samples:
            self._list(samples)
        if agreed.bad:
            _raise_fatal([record.reason for record in records if record.fatal])
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
                if (record.step, record.sample) in self._listed:
                    continue
                file.write(_line(record))


def list_evaluation(run_dir: Path, records: Sequence[BadRecord]) -> None:
    """``bad_samples/evaluation.tsv``: what the last evaluation left out; no file if nothing."""
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
        for line in path.read_text(encoding="utf-8").splitlines():
            fields = line.split("\t")
            if len(fields) == 3:  # the last line of a crash may be cut
                found.add((int(fields[0]), int(fields[1])))
    return found


def _raise_fatal(reasons: list[str]) -> None:
    """End all ranks with the error of the lowest one that has any. A collective."""
    for found in gathered(reasons):
        if found:
            raise DataError(found[0])

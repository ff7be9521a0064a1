"""Lines of balanced classes: the order of earlier versions, made once on a node."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.ranks import run_ranks

from rwp_dist.base.keyed import numpy_generator
from rwp_dist.data.selection import Balanced, Line
from rwp_dist.data.shared_lines import SharedLines

Integers = NDArray[np.int64]


def reference(
    counts: Integers, labels: Integers, seed: int, epoch: int
) -> tuple[Integers, Integers]:
    """Shards and rows of an epoch, as they were made before they were shared."""
    random = numpy_generator(seed, 0, epoch)
    classes, members = np.unique(labels, return_counts=True)
    quota = len(labels) // len(classes)
    repeats = np.zeros(len(labels), dtype=np.int64)
    for own in np.split(np.argsort(labels, kind="stable"), members.cumsum()[:-1]):
        repeats[own] = quota // len(own)
        repeats[random.permutation(own)[: quota % len(own)]] += 1
    firsts = counts.cumsum() - counts
    shards, rows = list[int](), list[int]()
    for shard in random.permutation(len(counts)).tolist():
        for row in range(int(counts[shard])):
            times = int(repeats[firsts[shard] + row])
            shards += [shard] * times
            rows += [row] * times
    return np.array(shards), np.array(rows)


def balanced(counts: Integers, labels: Integers) -> Balanced:
    return Balanced(counts, labels.astype(np.int32), len(np.unique(labels)))


def located(line: Line) -> tuple[Integers, Integers]:
    return line.locate(np.arange(line.ends[-1]))


@pytest.mark.parametrize("num_classes", [1, 3, 20, 100_000])
@pytest.mark.parametrize("seed", range(5))
def test_balanced_samples_come_in_the_order_of_earlier_versions(
    seed: int, num_classes: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 60, rng.integers(1, 30))
    labels = rng.zipf(1.4, counts.sum()) % num_classes
    known = reference(counts, labels, seed, 2)
    assert np.array_equal(located(balanced(counts, labels).line(seed, 2)), known)
    shared = SharedLines(balanced(counts, labels), tmp_path / "node" / "balanced")
    assert np.array_equal(located(shared.line(seed, 2)), known)
    assert np.array_equal(located(shared.line(seed, 2)), known), "of the file"
    assert shared.num_samples == len(known[0]) and shared.repeats


class Counted(Balanced):
    """Says on the disk that it made a line."""

    def line(self, seed: int, epoch: int) -> Line:
        with Path("made").open("a") as file:
            file.write(f"{epoch}\n")
        return super().line(seed, epoch)


COUNTS, LABELS = np.array([40, 50, 60]), np.arange(150) % 7


def _lines(folder: str) -> list[int]:
    shared = SharedLines(Counted(COUNTS, LABELS, 7), Path(folder) / "balanced")
    return [int(located(shared.line(0, epoch))[1].sum()) for epoch in range(4)]


def test_ranks_that_need_lines_at_once_make_each_once_and_keep_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run_ranks(_lines, 3, str(tmp_path / "node"))
    assert found[0] == found[1] == found[2]
    made = (tmp_path / "made").read_text().split()
    # A rank that comes late to an epoch that all others have left makes it again.
    assert set(made) == {"0", "1", "2", "3"} and len(made) <= 8
    kept = {path.name for path in (tmp_path / "node").glob("*.line")}
    assert {"balanced.0-2.line", "balanced.0-3.line"} <= kept


def test_where_nothing_can_be_kept_each_process_makes_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    shared = SharedLines(balanced(COUNTS, LABELS), tmp_path / "file" / "node" / "balanced")
    assert np.array_equal(located(shared.line(0, 1)), reference(COUNTS, LABELS, 0, 1))

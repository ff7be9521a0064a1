"""Pieces are shared out, kept, and computed again only if the request is another."""

from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist
from support.ranks import run_ranks

from rwp_dist.base.errors import RunDirError, RwpError
from rwp_dist.flatness.pieces import Piece, compute_pieces


def computed(path: Path, radius: float = 0.1, count: int = 5) -> tuple[dict, list[str], float]:
    """Values, the names that this rank computed, and the passes that it told."""
    mine: list[str] = []
    told: list[float] = []

    def compute(name: str, value: float) -> float:
        mine.append(name)
        return value

    pieces = [
        Piece(f"p{n}", 2.0, {"radius": radius}, partial(compute, f"p{n}", n * radius))
        for n in range(count)
    ]
    all_of_us = partial(compute, "together", 7.0)
    pieces.insert(0, Piece("together", 0, {"radius": radius}, all_of_us, together=True))
    return compute_pieces(path, pieces, told.append), mine, sum(told)


def test_ranks_share_the_pieces_and_all_know_all_values(tmp_path: Path) -> None:
    (first, mine, told), (second, others, _) = run_ranks(computed, 2, tmp_path / "a" / "kept.jsonl")
    assert first == second == {"together": 7.0} | {f"p{n}": n * 0.1 for n in range(5)}
    assert list(first) == ["together", "p0", "p1", "p2", "p3", "p4"]
    assert (mine, others) == (["p0", "p2", "p4", "together"], ["p1", "p3", "together"])
    assert told == 10.0


def test_kept_pieces_are_not_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    [(values, _, _)] = run_ranks(computed, 1, path, 0.1, 3)
    [(more, mine, told)] = run_ranks(computed, 1, path)
    assert mine == ["p3", "p4"]
    assert told == 10.0  # what was kept counts as done
    assert {name: more[name] for name in values} == values


def test_another_request_is_computed_anew(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    run_ranks(computed, 1, path)
    [(values, mine, _)] = run_ranks(computed, 1, path, 0.2)
    assert len(mine) == 6
    assert values["p4"] == 0.8


def test_a_torn_last_line_is_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    run_ranks(computed, 1, path)
    path.write_text(path.read_text()[:-9])
    for expected in (["together"], []):
        [(_, mine, _)] = run_ranks(computed, 1, path)
        assert mine == expected


def failing(path: Path) -> None:
    def compute() -> None:
        if dist.get_rank() == 1:
            raise RwpError("one rank's trouble")

    compute_pieces(path, [Piece(f"p{n}", 1, {}, compute) for n in range(2)], lambda passes: None)


def test_an_error_of_one_rank_ends_all(tmp_path: Path) -> None:
    with pytest.raises(RwpError, match="one rank's trouble"):
        run_ranks(failing, 2, tmp_path / "kept.jsonl")


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="cannot be written to"):
        run_ranks(computed, 2, tmp_path / "file" / "kept.jsonl")

"""The logs of runs that were started on this machine."""

from pathlib import Path

import pytest

from launcher import logs, ranks
from launcher.logs import follow, read
from rwp_dist.base.errors import RwpError
from rwp_dist.process.rank import log_of, new_attempt
from rwp_dist.record.directory import RunDir


def attempt(run: RunDir, text: str, rank: int = 0) -> Path:
    folder = new_attempt(run.path)
    assert folder is not None
    log_of(folder, rank).write_text(text)
    return log_of(folder, rank)


def test_the_newest_attempt_that_printed_anything_is_read(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(RwpError, match="there is no log yet; see `rwp-launch status`"):
        read(run, None)
    attempt(run, "first\n")
    attempt(run, "second\n")
    attempt(run, "")
    assert read(run, None) == read(run, 0) == "second\n"
    with pytest.raises(RwpError, match="no log of rank 1 yet"):
        read(run, 1)


def test_following_goes_on_to_later_attempts_and_misses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "POLL_S", 0.001)
    monkeypatch.setattr(logs, "ASK_S", 0.0)
    run = RunDir(tmp_path)
    attempt(run, "long ago\n")
    second = attempt(run, "second\n")
    looks = iter([True] * 1000)
    found = follow(run, None, lambda: next(looks, False))
    assert next(found) == "second\n"
    with second.open("ab") as file:
        file.write("half a é".encode()[:-1])
    assert next(found) == "half a "
    with second.open("ab") as file:
        file.write("é\n".encode()[1:])
    attempt(run, "third\n")  # both before the next look
    assert [next(found), next(found)] == ["é\n", "third\n"]
    assert list(found) == []


def test_following_waits_for_the_first_line_and_a_run_without_any_says_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "POLL_S", 0.001)
    monkeypatch.setattr(logs, "ASK_S", 0.0)
    run = RunDir(tmp_path)
    looks = 0

    def living() -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            attempt(run, "at last\n")
        return looks < 5

    assert list(follow(run, None, living)) == ["at last\n"]
    failed = RunDir(tmp_path / "failed")
    failed.write_status("failed", 0, 2, message="data.train: no shards")
    assert list(follow(failed, None, lambda: False)) == ["data.train: no shards\n"]


def test_a_start_that_will_be_no_attempt_does_not_hide_the_log_of_one(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    attempt(run, "trains\n")
    with run.locked():
        assert ranks._logs(tmp_path, changed=False) is None
    run.write_summary({"top1": 70.0})
    assert ranks._logs(tmp_path, changed=False) is None
    run.summary.unlink()
    assert ranks._logs(tmp_path, changed=False) == tmp_path / "logs" / "attempt-2"


def test_following_ends_when_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    attempt(run, "first\n")
    monkeypatch.setattr(logs.streams, "nobody_reads", lambda: True)
    assert list(follow(run, None, lambda: True)) == ["first\n"]

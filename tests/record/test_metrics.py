"""metrics.jsonl: torn lines, and what is cut at a resume."""

import json
import random
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from rwp_dist.base.files import parse_json, write_text
from rwp_dist.record import metrics
from rwp_dist.record.directory import RunDir


def lines(*steps: int) -> str:
    return "".join(json.dumps({"kind": "train", "step": s}) + "\n" for s in steps)


def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_bytes(lines(1, 2).encode() + b'{"kind": "eval", "ste\xc3')
    assert [r["step"] for r in run.read_metrics()] == [1, 2]
    assert run.read_metrics("eval") == []


@pytest.mark.parametrize(
    ("last_step", "kept"), [(20, [10, 20]), (5, []), (0, []), (99, [10, 20, 30])]
)
def test_cut_drops_what_comes_after_the_checkpoint(
    tmp_path: Path, last_step: int, kept: list[int]
) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_text(lines(10, 20, 30) + '{"torn')
    run.cut_metrics(last_step)
    assert run.metrics.read_text() == lines(*kept)


def test_a_start_from_the_beginning_keeps_nothing(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_text(lines(0, 10))
    run.cut_metrics(0)
    assert run.metrics.read_text() == ""


def test_cut_of_a_whole_file_does_not_touch_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.cut_metrics(3)
    assert not run.metrics.exists()
    run.metrics.write_text(lines(1, 2))
    before = run.metrics.stat()
    run.cut_metrics(3)
    after = run.metrics.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("seed", range(20))
def test_attempts_that_are_killed_leave_what_a_look_at_every_line_leaves(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 50)  # lines are longer and shorter than a block
    draw = random.Random(seed)
    now, before = tmp_path / "now.jsonl", tmp_path / "before.jsonl"
    for path in (now, before):
        path.touch()
    saved, some_were_kept = [0], False
    for _ in range(8):
        first = draw.choice(saved)
        metrics.cut_metrics(now, first)
        cut_every_line(before, first)
        assert now.read_bytes() == before.read_bytes()
        some_were_kept |= now.stat().st_size > 0
        saved = [step for step in saved if step <= first]
        saved += logged(draw, first, (now, before))
    assert some_were_kept


def logged(draw: random.Random, first: int, paths: tuple[Path, ...]) -> list[int]:
    """Have an attempt log from a step on until it is killed; returns the steps of checkpoints."""
    text, saved = "", []
    for step in range(first + 1, first + draw.randint(2, 9)):
        for kind in draw.sample(["train", "eval", "checkpoint"], draw.randint(0, 3)):
            text += json.dumps({"kind": kind, "step": step, "loss": "x" * draw.choice([0, 9, 99])})
            text += "\n"
            saved += [step] if kind == "checkpoint" else []
        if draw.random() < 0.1:
            text += draw.choice(['{"kind": "note"}\n', '{"kind": "note", "step": null}\n'])
    text = text[: len(text) - draw.choice([0, 0, 1, 2, 30])]
    text += draw.choice(["", "", "\n", '{"kind": "train", "st', "[1]\n", "\0\0\0"])
    for path in paths:
        with path.open("a") as file:
            file.write(text)
    return saved


def cut_every_line(path: Path, last_step: int) -> None:
    """What ``cut_metrics`` did when it parsed the whole file."""
    kept = [
        line
        for line, record in parsed(path)
        if last_step > 0 and (record.get("step") or 0) <= last_step
    ]
    write_text(path, "".join(f"{line}\n" for line in kept))


def parsed(path: Path, kind: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Every line, and its record, as they were read then."""
    found = []
    for line in path.read_text(errors="replace").split("\n"):
        if kind is not None and f'"{kind}"' not in line:
            continue
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and kind in (None, record.get("kind")):
            found.append((line, record))
    return found


@pytest.mark.parametrize("kind", [None, "train", "eval", "checkpoint"])
def test_records_of_a_kind_are_found_however_their_lines_are_written(
    tmp_path: Path, kind: str | None
) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_bytes(
        b'{"kind": "train", "step": 1}\n{"kind": "eval", "step": 1, "of": "train"}\n'
        b'{"step": 2, "kind": "eval"}\n{"kind":"eval","step":3}\r\n {"kind": "train", "step": 3}\n'
        b'\n"eval"\n{"kind": "eval", "kind": "eval"}\n{"kind": "evaluated", "of": "eval"}\n'
        b'{"kind": "train", "text": "eval \xff"}\n\0\0{"kind": "eval"}\n{"kind": "eval", "step": 4}'
    )
    found = run.read_metrics(kind)
    assert found == [record for _, record in parsed(run.metrics, kind)]
    assert len(found) == {None: 8, "train": 3, "eval": 4, "checkpoint": 0}[kind]


def test_the_last_records_are_those_from_a_step_on(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_last_metrics(1) == []
    run.metrics.write_text(lines(1, 2, 3) + '{"kind": "note"}\n' + lines(3, 4) + '{"torn')
    assert [record["step"] for record in run.read_last_metrics(3)] == [3, 3, 4]
    assert [record["step"] for record in run.read_last_metrics(5)] == []
    assert len(run.read_last_metrics(0)) == 6


def test_a_crash_in_a_cut_loses_nothing_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    before = lines(1, 2, 3) + '{"kind": "note"}\n'  # the note stays, and step 3 goes
    run.metrics.write_text(before)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("rwp_dist.base.disk.replace", killed)
        run.cut_metrics(2)
    assert run.metrics.read_text() == before
    run.cut_metrics(2)
    assert run.metrics.read_text() == lines(1, 2) + '{"kind": "note"}\n'


def test_a_resume_after_a_million_lines_takes_a_tenth_of_a_second_and_ten_megabytes(
    tmp_path: Path,
) -> None:
    run = RunDir(tmp_path)
    epoch = json.dumps({"kind": "train", "step": "STEP", "more": [0.12345678] * 16}) * 1000
    epoch = epoch.replace('"STEP"', "STEP").replace("}", "}\n")
    epoch += '{"kind": "checkpoint", "step": STEP}\n'
    with run.metrics.open("w") as file:
        file.writelines(epoch.replace("STEP", str(step)) for step in range(1, 1001))

    def resume() -> None:
        with run.metrics.open("a") as file:
            file.write(epoch.replace("STEP", "1001") + '{"torn')  # killed just after an epoch
        run.cut_metrics(1000)
        assert run.read_last_metrics(1000)[-1] == {"kind": "checkpoint", "step": 1000}

    begin = time.process_time()
    resume()
    took_s = time.process_time() - begin
    tracemalloc.start()
    resume()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took_s <= 0.1 and peak_bytes <= 10e6, f"{took_s:.3f} s, {peak_bytes / 1e6:.1f} MB"

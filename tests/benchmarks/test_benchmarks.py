"""Benchmarks that start ranks run from end to end and print the rows that they promise."""

import subprocess
import sys
from pathlib import Path

from support.until import HANG_S

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*command):
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def rows(table):
    """The numbers of each row, by the name before them."""
    found = {}
    for line in table.splitlines():
        name, *numbers = line.split("  ")
        with_digits = [field for field in numbers if any(map(str.isdigit, field))]
        if with_digits:
            found[name.strip()] = with_digits
    return found


def test_step_compares_all_methods_and_the_authors_scheme():
    table = run(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *(BENCHMARKS / "step.py", "--model=small_cnn", "--size=8", "--batch=4", "--rounds=2"),
    )
    wanted = ["sgd", "m-rwp", "m-arwp", "sam", "sgd, plain", "m-rwp, authors"]
    assert [name for name in rows(table) if name in wanted] == wanted, table


def test_tracked_compares_steps_with_and_without_tracking():
    small = ("--model=small_cnn", "--size=8", "--batch=4", "--rounds=2", "--steps=2")
    table = run(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *(BENCHMARKS / "tracked.py", *small),
    )
    assert {"step without tracking", "with tracking"} == set(rows(table)), table


def test_memory_compares_peaks_with_and_without_noise_drawn_ahead():
    table = run(BENCHMARKS / "memory.py", "--model=small_cnn", "--repeats=1")
    assert "parameters:" in table
    assert {"sgd", "m-arwp, noise drawn ahead", "m-arwp, noise drawn in line"} <= set(rows(table))


def test_overlap_measures_a_link_or_says_why_it_cannot():
    table = run(
        BENCHMARKS / "overlap.py", "--model=small_cnn", "--size=8", "--batch=4", "--rounds=2"
    )
    if "Skipped" in table:
        assert "network namespaces are not allowed" in table
    else:
        assert {"sgd", "m-rwp", "m-arwp", "m-rwp, in line"} <= set(rows(table)), table


def test_scale_compares_every_cell_with_its_prediction_or_says_why_it_cannot(tmp_path):
    small = ("--model=small_cnn", "--size=8", "--batch=4", "--rounds=2")
    table = run(BENCHMARKS / "scale.py", tmp_path / "times.json", *small)
    if "Skipped" in table:
        assert "network namespaces are not allowed" in table
    else:
        cells = {name: fields for name, fields in rows(table).items() if "ranks" in name}
        assert len(cells) == 27, table
        assert cells["sgd, 2 ranks, 1gbit"][-1].split()[0] in ("+0.0%", "-0.0%"), table


def test_streaming_and_decode_compare_with_their_peers():
    table = run(BENCHMARKS / "streaming.py", "--images=64", "--rounds=1")
    assert {"ImageFolder + Pillow", "WebDataset", "this project"} <= set(rows(table)), table
    assert "samples replayed" in table
    for limit in ("of the transform's images/s", "libjpeg-turbo's crop decode", "of pread's"):
        assert limit in table
    table = run(BENCHMARKS / "decode.py", "--images=1", "--rounds=1")
    assert {"PIL + torchvision v1", "ours pil antialias", "entropy"} <= set(rows(table)), table

"""A trace names the parts of a step, on a clean and on a perturbed rank."""

import gzip
import json

from support.ranks import run_ranks
from test_train import digits, overrides, run  # noqa: F401  a fixture

from rwp_dist.record.directory import RunDir
from rwp_dist.run.profiling import STEPS as WINDOW
from rwp_dist.run.profiling import Profile


def spans(path):
    """Start, end and thread of every named part."""
    found = {}
    for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]:
        if event.get("cat") == "user_annotation":
            span = (event["ts"], event["ts"] + event["dur"], event["tid"])
            found.setdefault(event["name"], []).append(span)
    return found


def test_a_trace_names_the_parts_of_a_step_and_noise_lies_beside_them(digits, tmp_path):  # noqa: F811
    run_dir = tmp_path / "run"
    run_ranks(run, 2, overrides(digits, run_dir, "profile=true", "batch.per_rank=128"))
    clean, perturbed = (spans(run_dir / "profile" / f"rank-{rank}.json.gz") for rank in (0, 1))
    parts = {"forward", "backward", "step"}
    assert parts <= clean.keys() and not {"perturb", "noise"} & clean.keys()
    assert parts | {"perturb", "restore", "noise"} <= perturbed.keys()
    for trace in (clean, perturbed):
        assert all(len(trace[name]) == WINDOW for name in parts & trace.keys())
    main_thread = perturbed["forward"][0][2]
    assert all(thread != main_thread for _, _, thread in perturbed["noise"])
    # Drawing begins in a backward pass, and ends before the next perturbation does.
    begins = sorted(begin for begin, _, _ in perturbed["backward"])
    limits = sorted(end for _, end, _ in perturbed["perturb"])
    passes_before = [sum(b <= start for b in begins) for start, _, _ in perturbed["noise"]]
    assert set(passes_before) >= set(range(1, WINDOW))
    for (_, end, _), number in zip(perturbed["noise"], passes_before, strict=True):
        assert number == WINDOW or end <= limits[number]


def outcome(folder, steps):
    with Profile(RunDir(folder), wanted=True) as profile:
        for _ in range(steps):
            profile.step_done()
    return profile.outcome


def test_a_run_too_short_for_a_trace_says_so(tmp_path):
    (said,) = run_ranks(outcome, 1, tmp_path / "short", 4)
    assert "no trace, because this attempt took fewer than 8 steps" in said
    (said,) = run_ranks(outcome, 1, tmp_path / "long", 12)
    assert str(tmp_path / "long" / "profile") in said

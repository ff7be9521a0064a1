import io
import json

from rwp_dist.doctor.finding import Finding
from rwp_dist.doctor.report import as_json, show

FINDINGS = [
    Finding("disks", "cache", "ok", "there"),
    Finding("disks", "run directory", "problem", "é cannot be written to", "Set run.dir."),
    Finding("data", "training", "warning", "slow", "Move it."),
]


def shown(encoding: str) -> str:
    buffer = io.BytesIO()
    out = io.TextIOWrapper(buffer, encoding=encoding, errors="replace")
    show(FINDINGS, out)
    out.flush()
    return buffer.getvalue().decode(encoding)


def test_findings_are_grouped_and_aligned_and_have_their_cure_below() -> None:
    assert shown("utf-8").splitlines() == [
        "disks",
        "  ✓ cache                 there",
        "  ✗ run directory         é cannot be written to",
        "      → Set run.dir.",
        "data",
        "  ! training              slow",
        "      → Move it.",
        "",
        "1 problem, 1 warning: a run is likely to fail here until that is put right.",
    ]


def test_signs_degrade_where_the_terminal_does_not_know_them() -> None:
    lines = shown("ascii").splitlines()
    assert lines[1:4] == [
        "  ok cache                 there",
        "  X  run directory         ? cannot be written to",
        "      -> Set run.dir.",
    ]
    assert lines[5].startswith("  !  training")


def test_json_is_strict() -> None:
    broken = Finding("a", "b", "ok", "c", "", {"x": float("nan")})
    assert json.loads(as_json([broken], "n1"))["findings"][0]["figures"] == {"x": None}

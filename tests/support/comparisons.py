"""Small finished runs for tests of ``rwp-dist compare``."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from rwp_dist.config import dump_settings, load_settings
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import settings_identity

EVIL = "<script>alert(1)</script>\"'&`<img src=x onerror=alert(2)>"
PASSES = {"sgd": 1, "sam": 2, "m-rwp": "1 clean + 1 perturbed"}


SOFTWARE = {
    "rwp-dist": "0.3.0", "code": "abcdef012345", "commit": "c0ffee" * 6, "torch": "2.15.0",
    "deepspeed": "0.19.8",
}  # fmt: skip


def configure(run: RunDir, *overrides: str, **identity: Any) -> None:
    """Settings of a run, and its identity; data of one path are equal. Keys have ``_`` for dots."""
    settings = load_settings(None, [f"run.name={run.path.name}", *overrides])
    run.write_config(dump_settings(settings))
    summary = run.read_summary() or {}
    known = settings_identity(settings, summary.get("world_size", 1)) | SOFTWARE
    known |= {"data.train.id": id_of(settings.data.train), "data.val.id": id_of(settings.data.val)}
    known |= {"data.train.classes": id_of("classes")}
    known |= {key.replace("_", "."): value for key, value in identity.items()}
    run.write_summary(summary | {"identity": known, "changes": []})


def id_of(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def forget(run: RunDir) -> None:
    """Make it a run of an earlier version, which has no identity."""
    summary = run.read_summary() or {}
    run.write_summary({key: summary[key] for key in summary if key not in ("identity", "changes")})


def make(
    folder: Path,
    label: str,
    seed: int,
    top1: float,
    step_s: float,
    steps: int = 100,
    **more: Any,
) -> RunDir:
    run = RunDir(folder / f"{label.replace(' ', '-')}-{seed}")
    method = label.split()[0]
    summary = {
        "state": "finished", "label": label, "method": method, "seed": seed, "session": "one",
        "model": "small_cnn", "world_size": 2, "device": "cpu", "steps": steps,
        "samples": 12800 if method == "m-rwp" else 6400, "passes_per_step": PASSES.get(method, 1),
        "device_seconds": 2 * steps * step_s, "step_s": step_s, "top1": top1, "train_top1": 61.0,
        "skipped_steps": 0, "num_parameters": 5, "method_settings": {},
    }  # fmt: skip
    summary |= more
    run.write_summary(summary)
    configure(run, f"run.seed={seed}", f"method.name={summary['method']}")
    run.write_status("finished", 100, 100)
    records = [
        {"kind": "eval", "step": s, "top1": top1 - 50 / s} for s in (steps // 4, steps // 2, steps)
    ]
    run.metrics.write_text("".join(json.dumps(r) + "\n" for r in records))
    return run


def numbers(out: Path) -> dict[str, Any]:
    return {row["label"]: row for row in json.loads((out / "compare.json").read_text())["rows"]}


def split(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())

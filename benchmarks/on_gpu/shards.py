"""A real run as people start it: JPEG shards, 12 workers, m-arwp on ResNet-50, evaluation."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DRY = "--dry" in sys.argv
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "imagenet_resnet50.yaml"
IMAGES, STEPS, BATCH = (64, 4, 8) if DRY else (8192, 60, 256)
MODEL, SIZE = ("resnet18", 64) if DRY else ("resnet50", 224)
WORKERS = 2 if DRY else 12
WAIT_BAR = 0.05
"""Share of a step that may be spent waiting for data."""


def rwp_dist(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "rwp_dist", *arguments], check=True, timeout=100)


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in lines if record["kind"] == kind]


def main() -> int:
    """0: the run ends, goes on, and does not wait for data."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shards, run = folder / "shards", folder / "run"
        rwp_dist(
            *("shards", "synthetic", "--out", str(shards), "--num", str(IMAGES)),
            *("--classes", "10", "--workers", str(cores)),
        )
        settings = [
            *(f"data.train={shards}", f"data.val={shards}", f"data.image_size={SIZE}"),
            *(f"data.workers={WORKERS}", f"model.name={MODEL}", "model.num_classes=10"),
            *(f"batch.global={2 * BATCH}", f"batch.per_rank={BATCH}", f"run.dir={run}"),
            *(f"schedule.epochs={STEPS * 2 * BATCH / IMAGES}", "tracking.wandb=off"),
            "tracking.log_every=10",
        ]
        rwp_dist("train", str(CONFIG), "variant=m-arwp", *settings)
        print(f"{'step':>6}{'loss':>8}{'images/s':>10}{'waits':>8}{'perturbs':>10}{'GB':>7}")
        train = records(run, "train")
        for r in train:
            print(
                f"{r['step']:6}{r['loss']:8.3f}{r['images_per_s']:10.0f}{r['data_wait_share']:8.1%}"
                f"{r['perturb_share']:10.2%}{r['memory_bytes'] / 1e9:7.1f}"
            )
        print(records(run, "eval")[-1])
        rwp_dist("evaluate", str(run))
    late = train[len(train) // 2 :]
    share = sum(r["data_wait_share"] for r in late) / len(late)
    print(f"bar: data wait {share:.1%} <= {WAIT_BAR:.0%} of a step, after the start")
    return not (DRY or share <= WAIT_BAR)


if __name__ == "__main__":
    sys.exit(main())

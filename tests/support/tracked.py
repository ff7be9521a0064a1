"""Runs that only log. As a program: RUN FIRST_STEP MODE, one that goes on until it is killed."""

import sys
import time

from rwp_dist.config.load import load_settings
from rwp_dist.config.tree import Settings
from rwp_dist.config.values import dump_settings
from rwp_dist.record.directory import RunDir
from rwp_dist.tracking import Tracker, open_tracker

SUMMARY = {"top1": 71.0, "label": "m-rwp", "loss": None}


def settings(*overrides: str) -> Settings:
    return load_settings(None, ["run.name=m-rwp-seed3", "run.seed=3", *overrides])


def start(run: RunDir, first_step: int = 0, *overrides: str) -> Tracker:
    chosen = settings(*overrides)
    run.create()
    run.write_config(dump_settings(chosen))
    run.wandb_id()
    return open_tracker(chosen, run, total_steps=40, first_step=first_step)


def log(tracker: Tracker, *steps: int) -> None:
    for step in steps:
        tracker.log("train", {"step": step, "total_steps": 40, "loss": 2.0 / step, "top1": None})
        if step % 20 == 0:
            tracker.log("eval", {"step": step, "loss": 1.0, "top1": 71.0})


def finish(tracker: Tracker, run: RunDir) -> None:
    run.write_summary(SUMMARY)
    run.write_status("finished", 40, 40)
    tracker.summarize(SUMMARY)
    tracker.close("finished")


if __name__ == "__main__":
    folder, first, mode = sys.argv[1:]
    endless = start(RunDir(folder), int(first), f"tracking.wandb={mode}")
    for step in range(int(first) + 1, 100_000):
        log(endless, step)
        time.sleep(0.02)

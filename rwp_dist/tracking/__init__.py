"""What a run says while it goes on: to ``metrics.jsonl``, the console and W&B alike."""

from rwp_dist.tracking.tracker import Tracker, open_tracker

__all__ = ["Tracker", "open_tracker"]

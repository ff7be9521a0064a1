"""What a run reports while it trains: one record goes to every sink.

Sinks are ``metrics.jsonl``, the console, W&B, TensorBoard, trackio and a webhook, a file each.
``columns`` documents what a record holds, ``alerts`` what a person is told at once.
"""

from rwp_dist.tracking.sink import RunInfo, Sink
from rwp_dist.tracking.tracker import Tracker, open_tracker

__all__ = ["RunInfo", "Sink", "Tracker", "open_tracker"]

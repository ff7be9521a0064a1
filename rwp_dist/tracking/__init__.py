"""What a run reports while it trains: one record goes to every sink.

Sinks are ``metrics.jsonl``, the console, W&B and TensorBoard, a file each. ``columns`` documents
what a record holds.
"""

from rwp_dist.tracking.sink import RunInfo, Sink
from rwp_dist.tracking.tracker import Tracker, open_tracker

__all__ = ["RunInfo", "Sink", "Tracker", "open_tracker"]

"""``metrics.jsonl``: every record as one line of JSON. It has each step once, also after a crash.

The file is what ``rwp-dist compare`` and ``rwp-launch status`` read.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rwp_dist.base import clock
from rwp_dist.base.files import finite
from rwp_dist.record.directory import RunDir
from rwp_dist.tracking.sink import RunInfo, Sink


class JsonLines(Sink):
    """Appends ``{"kind": a key of COLUMNS, "time": see base/clock.py, **record}``.

    A record is on disk when ``log`` returns. JSON has no nan: nan and infinities become null.
    """

    name = "metrics.jsonl"

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self._file = run_dir.metrics.open("a", encoding="utf-8")

    @classmethod
    def open(cls, run: RunInfo) -> "JsonLines":
        run.run_dir.cut_metrics(run.first_step)
        return cls(run.run_dir)

    def log(self, kind: str, record: Mapping[str, Any]) -> None:
        line = json.dumps(finite({"kind": kind, "time": clock.now(), **record}))
        try:
            self._file.write(f"{line}\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.run_dir.metrics)) from error

    def close(self, state: str) -> None:
        with suppress(OSError):  # of a record that ``log`` could not write, and has said so
            self._file.close()

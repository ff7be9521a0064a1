"""Download what will be needed next, in the background."""

import threading
from collections.abc import Iterable
from itertools import islice

from rwp_dist.data.remote.cache import NodeCache, Shard


class Prefetcher:
    """A thread that downloads shards into a cache, one after the other.

    Make one in the process that uses it: threads do not survive a fork. ``look_ahead`` is the most
    shards that ``want`` takes.
    """

    def __init__(self, cache: NodeCache, look_ahead: int) -> None:
        self._cache = cache
        self._look_ahead = look_ahead
        self._changed = threading.Condition()
        self._shards: list[Shard] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="rwp-prefetch")
        self._thread.start()

    def want(self, shards: Iterable[Shard]) -> None:
        """Download these remote shards, soonest first; replaces what was wanted before."""
        with self._changed:
            self._shards = list(islice(shards, self._look_ahead))
            self._changed.notify()

    def close(self) -> None:
        """Stop after the download under way, without waiting for it."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._shards or self._closed)
                if self._closed:
                    return
                shard = self._shards.pop(0)
            self._cache.prefetch(shard)

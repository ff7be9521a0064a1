"""One background thread per process that fetches what will be needed next."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Calls ``fetch`` for the items wanted, one after the other; the newest list counts.

    The thread begins with the first wish, and again in a forked process with its first.
    """

    def __init__(self, fetch: Callable[[T], None], look_ahead: int) -> None:
        self._fetch = fetch
        self._look_ahead = look_ahead
        self._items: list[T] = []
        self._thread: threading.Thread | None = None
        self._begin()

    def want(self, items: Sequence[T]) -> None:
        """Replace what was wanted and not begun; only the first ``look_ahead`` are kept."""
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            self._items = list(items[: self._look_ahead])
            if self._thread is None and self._items:
                self._thread = threading.Thread(target=self._run, daemon=True, name="rwp-prefetch")
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End after the item under way, and wait for that."""
        if self._pid != os.getpid():
            return
        with self._changed:
            thread, self._thread, self._items = self._thread, None, []
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._thread, self._items = None, []

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._thread is not me)
                if self._thread is not me:
                    return
                item = self._items.pop(0)
            self._fetch(item)

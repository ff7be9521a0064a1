"""How a process of the command line ends: in one line that is true, and what its agent hears of it.

A KeyboardInterrupt that meets one of the imports, which take seconds, may come out as another error
or be lost. So where no step is being trained Ctrl-C ends the process from within the handler.
Training has handlers of its own (``StopSignals``). Imports nothing that takes time.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import gethostname
from types import FrameType

from rwp_dist.process import torchrun as launched

STOPPED = 130
FINAL = (0, 2, 65, 75, STOPPED)
"""Exit codes after which the same command is not tried again: it is done, would fail in the same
words, or was told to stop. Any other is a crash, or something that may be better next time."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""The agent starts its ranks with these blocked, so that none meets a half-started interpreter."""


def nothing_lost() -> str:
    """What is true until a command has begun its work."""
    training = {"run", "train", "sweep"} & set(sys.argv[1:3])
    return f"Stopped before {'the first step' if training else 'it began'}; nothing was lost."


_say: Callable[[], str | None] = nothing_lost
_process = 0


def ctrl_c_says(say: Callable[[], str | None]) -> None:
    """From now on Ctrl-C says this; None: the process is at its end anyway and may reach it."""
    global _say
    _say = say


@contextmanager
def at_once(*, to_the_end: bool = False) -> Iterator[None]:
    """Ctrl-C prints one line and ends the process at once, with exit code 130.

    Args:
        to_the_end: nothing follows but the end of the interpreter, which Ctrl-C leaves alone.
    """
    global _process
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _process = os.getpid()
    ctrl_c_says(nothing_lost)
    previous = {number: signal.signal(number, _end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if to_the_end:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def obey_signals() -> None:
    """Let signals through that the agent held back, now that there is a handler for them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def by_exception() -> None:
    """Ctrl-C raises KeyboardInterrupt again, for commands that have something to clear up."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def tell_agent(message: str, exit_code: int, **more: bool) -> None:
    """Leave word where torch's elastic agent looks for it, if there is one.

    Args:
        message: what went wrong.
        exit_code: what this process is about to end with.
        **more: for ``launcher.ends``: ``said`` (this process printed it), ``shared`` (every rank
            ends with it), ``lost`` (it only says that another rank is gone).
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    now = time.time()
    where = {"rank": launched.rank(), "host": os.environ.get("SLURMD_NODENAME") or gethostname()}
    what = {"message": message, "exit_code": exit_code, "timestamp": int(now), "time": now}
    with suppress(OSError):
        part = Path(f"{path}.part")
        part.write_text(json.dumps(where | what | more), encoding="utf-8")
        part.replace(path)


def others_stopped() -> bool:
    """Whether another rank of this machine has been stopped, so that this one cannot go on."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return bool(path) and STOPPED in exit_codes(Path(str(path)).parents[1])


def exit_codes(folder: Path) -> list[int]:
    """What ranks have told their agent, in any depth below ``folder``."""
    words = [json.loads(path.read_text()) for path in folder.rglob("error.json")]
    return [int(word.get("exit_code", 1)) for word in words]


def _end(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _process:  # forked, and not told otherwise
        os._exit(128 + number)
    text = _say()
    if text is None:
        return
    if number == signal.SIGINT:
        said = launched.rank() == 0
        if said:
            # Not print: the handler may have interrupted one. A terminal has shown ^C before.
            line = "\n" if sys.stderr and sys.stderr.isatty() else ""
            os.write(2, f"{line}{text}\n".encode())
        tell_agent(text, STOPPED, said=said, shared=True)
        os._exit(STOPPED)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)

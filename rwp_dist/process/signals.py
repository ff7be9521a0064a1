"""What signals do. While steps are trained, they ask for a checkpoint (``StopSignals``).

At all other times Ctrl-C prints one line, and its handler ends the process. A KeyboardInterrupt
would not do: during the imports of torch and DeepSpeed it was lost once and aborted Python once in
45 tries, and unwinding a run that is half built would record it as failed. Imports nothing that
takes time.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from rwp_dist.process import torchrun
from rwp_dist.process.exits import STOPPED, report_exit

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""``rwp-launch`` starts ranks with these blocked: a signal waits until there is a handler."""


def nothing_lost() -> str:
    """The message until a command has begun its work."""
    training = {"run", "train", "sweep"} & set(sys.argv[1:3])
    return f"Stopped before {'the first step' if training else 'it began'}; nothing was lost."


_message: Callable[[], str | None] = nothing_lost
_process = 0
"""The process that installed the handlers. Forked data workers inherit them."""


def exit_on_signals() -> None:
    """From now on SIGINT and SIGTERM end this process at once; SIGINT with the present message."""
    global _process
    _process = os.getpid()
    say_on_ctrl_c(nothing_lost)
    for number in SIGNALS:
        signal.signal(number, _exit)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def say_on_ctrl_c(message: Callable[[], str | None]) -> None:
    """Replace the message. If it returns None, the process is at its end and may reach it."""
    global _message
    _message = message


def ctrl_c_message() -> str:
    """The present message, for those who catch a KeyboardInterrupt."""
    return _message() or nothing_lost()


def raise_on_signals(*numbers: signal.Signals) -> None:
    """Have these signals raise KeyboardInterrupt, for work that has something to clear up."""
    for number in numbers:
        signal.signal(number, signal.default_int_handler)


def ignore_ctrl_c() -> None:
    """For the last moments of a process, which say how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StopSignals:
    """Whether a signal asked this rank to stop. The handlers only set a flag."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in self.NUMBERS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def _exit(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _process:
        os._exit(128 + number)
    message = _message()
    if message is None:
        return
    if number == signal.SIGINT:
        said = torchrun.rank() == 0
        if said:
            # Not print: the handler may have interrupted one. A terminal has shown ^C before.
            newline = "\n" if sys.stderr and sys.stderr.isatty() else ""
            os.write(2, f"{newline}{message}\n".encode())
        report_exit(message, STOPPED, said=said, shared=True)
        os._exit(STOPPED)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)

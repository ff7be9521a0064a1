"""What signals do. While steps are trained, they ask for a checkpoint (``StopSignals``).

At all other times Ctrl-C prints one line, and its handler ends the process. A KeyboardInterrupt
would not do: during the imports of torch and DeepSpeed it was lost once and aborted Python once in
45 tries, and unwinding a run that is half built would record it as failed. Imports nothing that
takes time.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import TypeVar

from rwp_dist.process import output, torchrun
from rwp_dist.process.exits import STOPPED, report_exit

T = TypeVar("T")

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
    """From now on signals end this process at once; all but SIGTERM with the present message.

    SIGUSR1 and SIGUSR2 are ignored if they were: a job script may wait until ranks can save.
    """
    global _process
    _process = os.getpid()
    say_on_ctrl_c(nothing_lost)
    for number in SIGNALS:
        signal.signal(number, _exit)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is not signal.SIG_IGN:
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
    for number in _heard(numbers):
        once = number == signal.SIGHUP
        signal.signal(number, _interrupt_once if once else signal.default_int_handler)


def hang_up_is_ignored() -> bool:
    """Whether this process was started by nohup or the like, to outlive its terminal."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def ignore_ctrl_c() -> None:
    """For the last moments of a process, which say how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Asked(BaseException):
    """A signal came while a rank waited. Not an Exception: torch's loader catches those."""


class StopSignals:
    """Whether a signal asked this rank to stop. The handlers only set a flag, or end a wait."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.asked = False
        self._waits = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in _heard(self.NUMBERS):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def wait(self, ready: Callable[[], T]) -> T | None:
        """What ``ready`` returns, however long it takes; None as soon as a signal asks to stop."""
        if self.asked:
            return None
        try:
            self._waits = True
            value = ready()
            self._waits = False
        except _Asked:
            return None
        except BaseException:
            self._waits = False
            raise
        return value

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._waits:
            self._waits = False
            raise _Asked


def _heard(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """These signals, without a hang-up that is ignored: that stays so."""
    return [n for n in numbers if n != signal.SIGHUP or not hang_up_is_ignored()]


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """A terminal that is closed sends the signal twice: the kernel does, and the shell."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _exit(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _process:
        os._exit(128 + number)
    message = _message()
    if message is None:
        return
    if number != signal.SIGTERM:
        said = torchrun.rank() == 0
        if said:
            # Not print: the handler may have interrupted one. A terminal has shown ^C before.
            newline = "\n" if sys.stderr and sys.stderr.isatty() else ""
            os.write(2, f"{newline}{message}\n".encode())
            output.write_copy(f"{message}\n")
        report_exit(message, STOPPED, said=said, shared=True)
        os._exit(STOPPED)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # process 1 of a container does not die of signals

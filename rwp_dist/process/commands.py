"""The group of commands that ``rwp-dist`` and ``rwp-launch`` are made of. Imports no torch."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from rwp_dist.base import disk
from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.base.home import check_home
from rwp_dist.base.text import size
from rwp_dist.process import limits, output, signals, streams, torchrun
from rwp_dist.process.exits import STOPPED, another_rank_stopped, report_exit

CHANGE = click.option(
    "--change",
    multiple=True,
    metavar="KEY=VALUE",
    help="Go on with another value, which is refused otherwise; repeatable.",
)
"""The option of commands that start one run, which may have begun."""


class Commands(click.Group):
    """Prints a user's error as one sentence and exits with its code.

    ``--debug``, where a group has that option, prints the traceback too. Any other error of a rank
    is a traceback with the rank's number.
    """

    def main(self, *args: Any, **more: Any) -> Any:
        """Run the program to its end. What it prints is its result, also with ``--help``."""
        try:
            return super().main(*args, **more)
        except SystemExit as end:
            lost = None if end.code else _lost_output()
            if lost is None:
                raise
            _say(str(lost))
            raise SystemExit(lost.exit_code) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        ctx.color = streams.in_colour()
        try:
            with _machine_suffices():
                check_home()
                _check_folder()
                return super().invoke(ctx)
        except RwpError as error:
            if ctx.params.get("debug"):
                _say(traceback.format_exc())
            if torchrun.rank() == 0 or not error.shared:
                _say(str(error), with_rank=not error.shared)
            said = torchrun.rank() == 0
            report_exit(str(error), error.exit_code, said=said, shared=error.shared)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            _say(signals.ctrl_c_message())
            ctx.exit(STOPPED)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if another_rank_stopped():
                ctx.exit(STOPPED)
            report_exit(f"{type(error).__name__}: {error}", 1, lost=_lost_another_rank(error))
            if torchrun.world_size() == 1:
                raise
            _say(traceback.format_exc())
            ctx.exit(1)


def _check_folder() -> None:
    """Refuse to work in a folder that is gone: libraries end there in words of their own."""
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the folder that this was started in is gone or closed ({error.strerror})",
            cure="change to another (cd) and start the command again",
        ) from None


@contextmanager
def _machine_suffices() -> Iterator[None]:
    """Memory, threads, open files, disks or a folder for temporary files that lack are a user's
    error."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        lack = lack_behind(error)
        if lack is None:
            raise
        raise lack from error


def lack_behind(error: Exception) -> RwpError | None:
    """What a machine does not have enough of; None: another error."""
    cause = str(error).partition("\n")[0].rstrip(".")
    limit = limits.memory_limit()
    raising = f"raise the limit of {size(limit)} (ulimit -v unlimited)" if limit else ""
    if limit and cause.endswith("failed to map segment from shared object"):
        return ConfigError(f"memory does not suffice for torch ({cause})", cure=raising)
    if isinstance(error, ImportError):
        return None
    # torch has no class of its own for the memory of CPUs.
    signs = ("out of memory", "allocate memory")
    if isinstance(error, MemoryError) or any(sign in cause for sign in signs):
        return RwpError(
            f"memory does not suffice ({cause or 'nothing is left'})",
            cure=f"{raising and f'{raising}, or '}lower batch.per_rank, data.image_size, "
            "data.prefetch or the number of workers",
        )
    if "can't start new thread" in cause or cause == os.strerror(errno.EAGAIN):  # the latter: gloo
        return RwpError(
            "no more threads or processes can be started",
            cure="raise the limit (ulimit -u; docker run --pids-limit=-1), or lower data.workers",
        )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return RwpError(
            "no more files can be opened",
            cure="raise the limit (ulimit -n; docker run --ulimit nofile=65536), or lower "
            "data.workers",
        )
    if isinstance(error, OSError) and error.errno in disk.NO_ROOM:
        if error.filename is None:
            problem, cure = f"a disk takes no more ({error.strerror})", "see `rwp-dist doctor`"
        else:
            problem = f"{error.filename} cannot be written to ({error.strerror})"
            cure = disk.cure_of(error)
        return RwpError(problem, cure=f"{cure}, and start the same command again")
    if "No usable temporary directory" in cause:
        return ConfigError(
            "no folder for temporary files can be written to, TMPDIR, /tmp or this one",
            cure="set TMPDIR to one (docker run --tmpfs /tmp:exec)",
        )
    return None


def _lost_output() -> RwpError | None:
    """The error of output that could not be written; None: all is written, or is in a log, too."""
    if sys.stdout:
        sys.stdout.flush()
    error = streams.unwritten()
    if error is None or output.has_log():
        return None
    return RwpError(
        f"the output could not be written ({error.strerror})",
        cure="make room on its disk, or send it elsewhere, and start the command again",
    )


def _say(text: str, with_rank: bool = True) -> None:
    """Print to stderr in one write, so that ranks do not mix their lines."""
    if with_rank and torchrun.world_size() > 1:
        text = f"rank {torchrun.rank()}: {text}"
    sys.stdout.flush()
    click.echo(text.rstrip("\n"), err=True)


def _lost_another_rank(error: Exception) -> bool:
    """Whether an error of gloo or NCCL only says that another rank is gone."""
    signs = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited")
    return any(sign in str(error) for sign in signs)

"""The group of commands that ``rwp-dist`` and ``rwp-launch`` are made of. Imports no torch."""

import sys
import traceback
from typing import Any

import click

from rwp_dist.base.errors import RwpError
from rwp_dist.process import signals, torchrun
from rwp_dist.process.exits import STOPPED, another_rank_stopped, report_exit


class Commands(click.Group):
    """Prints a user's error as one sentence and exits with its code.

    ``--debug``, where a group has that option, prints the traceback too. Any other error of a rank
    is a traceback with the rank's number.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
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

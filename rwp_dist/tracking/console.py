"""The console: a progress bar on a terminal, one aligned line per record elsewhere."""

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from rwp_dist.base.text import visible
from rwp_dist.process import output, streams
from rwp_dist.tracking.lines import eval_line, summary_line, title_line, train_line, train_postfix
from rwp_dist.tracking.sink import RunInfo, Sink

BAR_FORMAT = "{desc}{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"

MIN_BAR = 8
"""Least width of the bar itself, in characters. Text that does not fit beside it is left out."""

WIDTH = 80
"""Assumed width of a terminal that does not report one, in characters."""


class Console(Sink):
    """Prints records: lines to stdout; a bar to stderr, if that is a terminal that can show it."""

    name = "the console"

    def __init__(
        self, *, total_steps: int, first_step: int = 0, title: str = "", folder: str = ""
    ) -> None:
        """
        Args:
            total_steps: updates of the whole run.
            first_step: updates that are done already.
            title: short name, shown before the bar.
            folder: where the run's files are, shown at the end.
        """
        self._folder = folder
        self._bar: tqdm[Any] | None = None
        title = title if len(title) <= 20 else f"{title[:19]}…"
        head = f"{title}: " if title else ""
        steps = f"{total_steps}/{total_steps}"
        self._beside = len(f"{head}100% || {steps} [00:00 left]")
        if streams.can_redraw(sys.stderr):
            self._bar = tqdm(
                total=total_steps,
                initial=first_step,
                desc=head,
                bar_format=BAR_FORMAT,
                dynamic_ncols=True,
                leave=False,
                smoothing=0.05,
                mininterval=0.2,
            )

    @classmethod
    def open(cls, run: RunInfo) -> "Console":
        print(title_line(run.settings, run.position), flush=True)
        return cls(
            total_steps=run.total_steps,
            first_step=run.first_step,
            title=run.settings.run.name or run.run_dir.path.name,
            folder=str(run.run_dir.path),
        )

    def log(self, kind: str, record: Mapping[str, Any]) -> None:
        """Print a line of an evaluation, and of training; that goes beside the bar, if any."""
        if kind == "eval":
            self.say(eval_line(record))
        elif kind != "train":
            return
        elif self._bar is None:
            self.say(train_line(record))
        else:
            room = (self._bar.format_dict["ncols"] or WIDTH) - self._beside - MIN_BAR
            room -= 2 if (record.get("eta_s") or 0) >= 3600 else 0  # 0:00:00
            self._bar.set_postfix_str(train_postfix(record, room), refresh=False)
            self.advance(record["step"])
            output.write_copy(f"{train_line(record)}\n")  # a log has lines, and no bar

    def advance(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()
        else:
            print(text, flush=True)

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Print the result as a line."""
        self._remove_bar()
        self.say(f"{summary_line(summary)}; all of it is in {visible(self._folder)}")

    def close(self, state: str) -> None:
        self._remove_bar()

    def _remove_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

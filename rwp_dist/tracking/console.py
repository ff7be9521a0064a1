"""The console: a progress bar on a terminal, one aligned line per record elsewhere."""

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from rwp_dist.base.text import count as count
from rwp_dist.base.text import duration as duration
from rwp_dist.base.text import percent as percent
from rwp_dist.base.text import size as size
from rwp_dist.tracking.sink import RunInfo, Sink

BAR_FORMAT = "{desc}{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"

MIN_BAR = 8
"""Least width of the bar itself, in characters. Text that does not fit beside it is left out."""

WIDTH = 80
"""Assumed width of a terminal that does not report one, in characters."""


class Console(Sink):
    """Prints records. The bar goes to stderr, and only if that is a terminal; lines to stdout."""

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
        if sys.stderr.isatty():
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
        print(title_line(run), flush=True)
        return cls(
            total_steps=run.total_steps,
            first_step=run.first_step,
            title=run.settings.run.name or run.run_dir.path.name,
            folder=str(run.run_dir.path),
        )

    def log(self, kind: str, record: Mapping[str, Any]) -> None:
        """Print a line; but a train record goes beside the bar, if there is one."""
        if kind != "train":
            self.say(eval_line(record))
        elif self._bar is None:
            self.say(train_line(record))
        else:
            room = (self._bar.format_dict["ncols"] or WIDTH) - self._beside - MIN_BAR
            room -= 2 if (record.get("eta_s") or 0) >= 3600 else 0  # 0:00:00
            self._bar.set_postfix_str(train_postfix(record, room), refresh=False)
            self.advance(record["step"])

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
        self.say(f"{summary_line(summary)}; all of it is in {self._folder}")

    def close(self, state: str) -> None:
        self._remove_bar()

    def _remove_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def title_line(run: RunInfo) -> str:
    """First line of a run: ``[5/18] m-rwp, seed 0``."""
    settings = run.settings
    title = f"{settings.run.label or settings.method.name}, seed {settings.run.seed}"
    return title if run.position is None else f"[{run.position[0]}/{run.position[1]}] {title}"


def summary_line(summary: Mapping[str, Any]) -> str:
    """Last line of a run: ``finished m-rwp, top-1 93.94 %, 1,260 updates, 45 s of training``."""
    parts = [str(summary.get("label") or summary.get("name") or "")]
    if summary.get("top1") is not None:
        parts.append(f"top-1 {summary['top1']:.2f} %")
    if summary.get("steps") is not None:
        parts.append(f"{summary['steps']:,} updates")
    if summary.get("train_s") is not None:
        parts.append(f"{duration(summary['train_s'])} of training")
    return f"finished {', '.join(parts)}"


def train_line(record: Mapping[str, Any]) -> str:
    """A train record as one line; parts that a run does not have are left out."""
    total = record.get("total_steps") or record["step"]
    parts = [
        f"step {record['step']:>{len(f'{total:,}')},}/{total:,}",
        f"epoch {_number(record.get('epoch'), 6, 2)}",
        f"loss {loss_text(record.get('loss')):>8}",
        f"{count(record.get('images_per_s')):>6} images/s",
        f"data wait {percent(record.get('data_wait_share')):>6}",
    ]
    if record.get("top1") is not None:
        parts.insert(3, f"top-1 {_number(record['top1'], 5, 1)} %")
    if record.get("bytes_per_s"):
        parts.append(f"{size(record['bytes_per_s']):>7}/s")
    if record.get("cache_hits") is not None:
        parts.append(f"cache hits {percent(record['cache_hits']):>7}")
    if record.get("perturb_s"):
        cost = duration(record["perturb_s"])
        parts.append(f"perturb {cost:>7} ({percent(record.get('perturb_share'))})")
    if record.get("noise_hidden") is not None:
        parts.append(f"noise hidden {percent(record['noise_hidden']):>7}")
    if record.get("adaptation") is not None:
        parts.append(f"adapt ×{record['adaptation']:.3f}")
    if record.get("memory_bytes"):
        parts.append(f"{size(record['memory_bytes']):>7}")
    parts += _troubles(record)
    if record.get("eta_s"):
        parts.append(f"left {duration(record['eta_s'])}")
    return "  ".join(parts)


def train_postfix(record: Mapping[str, Any], room: int) -> str:
    """What fits into ``room`` characters beside a bar, which tells steps and the time left."""
    parts = [f"loss {loss_text(record.get('loss'), 3)}", *_troubles(record)]
    if record.get("top1") is not None:
        parts.append(f"top-1 {record['top1']:.1f} %")
    if record.get("images_per_s") is not None:
        parts.append(f"{count(record['images_per_s'])} img/s")
    if record.get("data_wait_share") is not None:
        parts.append(f"wait {percent(record['data_wait_share'])}")
    if record.get("perturb_share"):
        parts.append(f"perturb {percent(record['perturb_share'])}")
    if record.get("memory_bytes"):
        parts.append(size(record["memory_bytes"]))
    text, *others = parts
    for part in others:
        # tqdm puts ", " before it.
        if 2 + len(text) + 2 + len(part) > room:
            break
        text += f", {part}"
    return text


def eval_line(record: Mapping[str, Any]) -> str:
    """An evaluation as one line."""
    parts = [
        f"eval at step {record['step']:,}:",
        f"top-1 {_number(record.get('top1'), 0, 2)} %",
        f"top-5 {_number(record.get('top5'), 0, 2)} %",
        f"loss {loss_text(record.get('loss'))}",
        *_troubles(record),
    ]
    return "  ".join(parts)


def loss_text(value: float | None, digits: int = 4) -> str:
    """A loss: ``2.3026``, ``120.50``, ``1.80e+16``."""
    if value is None:
        return "—"
    if abs(value) >= 1e4:
        return f"{value:.2e}"
    return f"{value:.{digits if abs(value) < 99.5 else 2}f}"


def _troubles(record: Mapping[str, Any]) -> list[str]:
    """What should not be there: skipped updates and samples that could not be read."""
    parts = []
    if record.get("skipped_steps"):
        parts.append(f"{record['skipped_steps']:,} skipped")
    if record.get("bad_samples"):
        number = record["bad_samples"]
        parts.append(f"{number:,} bad sample{'' if number == 1 else 's'}")
    return parts


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'—':>{width}}" if value is None else f"{value:{width}.{digits}f}"

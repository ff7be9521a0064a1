"""What a person sees: a progress bar on a terminal, one aligned line per record elsewhere."""

import sys
from typing import Any

from tqdm import tqdm

BAR_FORMAT = "{desc}{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"

MIN_BAR = 8
"""Characters that the bar itself keeps; what does not fit beside it is left out."""

WIDTH = 80
"""Assumed of a terminal that does not tell its own."""


class Console:
    """Shows records. The bar is on stderr and only if that is a terminal; lines are on stdout."""

    def __init__(self, *, total_steps: int, first_step: int, title: str = "") -> None:
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

    def advance(self, step: int) -> None:
        """Move the bar to ``step``; costs next to nothing without one."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()
        else:
            print(text, flush=True)

    def train(self, record: dict[str, Any]) -> None:
        """Show a train record: short beside the bar, else as a line."""
        if self._bar is not None:
            room = (self._bar.format_dict["ncols"] or WIDTH) - self._beside - MIN_BAR
            room -= 2 if (record.get("eta_s") or 0) >= 3600 else 0  # 0:00:00
            self._bar.set_postfix_str(train_postfix(record, room), refresh=False)
            self.advance(record["step"])
        else:
            self.say(train_line(record))

    def eval(self, record: dict[str, Any]) -> None:
        """Show an evaluation as a line."""
        self.say(eval_line(record))

    def close(self) -> None:
        """Take the bar away; lines stay."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def head_line(title: str, position: tuple[int, int] | None = None) -> str:
    """What a run begins with: ``[5/18] m-rwp, seed 0``."""
    return title if position is None else f"[{position[0]}/{position[1]}] {title}"


def train_line(record: dict[str, Any]) -> str:
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


def train_postfix(record: dict[str, Any], room: int) -> str:
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


def eval_line(record: dict[str, Any]) -> str:
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


def _troubles(record: dict[str, Any]) -> list[str]:
    """What should not be there: skipped updates and samples that could not be read."""
    parts = []
    if record.get("skipped_steps"):
        parts.append(f"{record['skipped_steps']:,} skipped")
    if record.get("bad_samples"):
        number = record["bad_samples"]
        parts.append(f"{number:,} bad sample{'' if number == 1 else 's'}")
    return parts


def duration(seconds: float | None) -> str:
    """Seconds in the unit a person would use: ``85 µs``, ``4.2 ms``, ``12 s``, ``3 h 05 min``."""
    if seconds is None:
        return "—"
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.{0 if seconds >= 0.0995 else 1}f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def size(num_bytes: float | None) -> str:
    """Bytes in decimal units, as vendors sell memory: ``812 MB``, ``31.4 GB``."""
    if num_bytes is None:
        return "—"
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            value = num_bytes / factor
            return f"{value:.{1 if value < 99.95 else 0}f} {unit}"
    return f"{num_bytes:.0f} B"


def count(value: float | None) -> str:
    """A number of things: three digits below 100, whole with separators above."""
    if value is None:
        return "—"
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage."""
    return "—" if share is None else f"{share * 100:.1f} %"


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'—':>{width}}" if value is None else f"{value:{width}.{digits}f}"

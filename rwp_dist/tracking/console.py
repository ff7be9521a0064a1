"""What a person sees: a progress bar on a terminal, one aligned line per record elsewhere."""

import sys
from typing import Any

from tqdm import tqdm


class Console:
    """Shows records. The bar is on stderr and only if that is a terminal; lines are on stdout."""

    def __init__(self, *, total_steps: int, first_step: int, title: str = "") -> None:
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total_steps,
                initial=first_step,
                desc=title or None,
                unit="step",
                dynamic_ncols=True,
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
            self._bar.set_postfix_str(train_postfix(record), refresh=False)
            self.advance(record["step"])
        else:
            self.say(train_line(record))

    def eval(self, record: dict[str, Any]) -> None:
        """Show an evaluation as a line."""
        self.say(eval_line(record))

    def close(self) -> None:
        """Leave the bar where it is and the cursor below it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def train_line(record: dict[str, Any]) -> str:
    """A train record as one line; parts that a run does not have are left out."""
    total = record.get("total_steps") or record["step"]
    parts = [
        f"step {record['step']:>{len(f'{total:,}')},}/{total:,}",
        f"epoch {_number(record.get('epoch'), 6, 2)}",
        f"loss {_number(record.get('loss'), 7, 4)}",
        f"{count(record.get('images_per_s')):>6} images/s",
        f"data wait {percent(record.get('data_wait_share')):>6}",
    ]
    if record.get("top1") is not None:
        parts.insert(3, f"top-1 {_number(record['top1'], 5, 1)} %")
    if record.get("perturb_s") is not None:
        cost = duration(record["perturb_s"])
        parts.append(f"perturb {cost:>7} ({percent(record.get('perturb_share'))})")
    if record.get("adaptation") is not None:
        parts.append(f"adapt ×{record['adaptation']:.3f}")
    if record.get("memory_bytes"):
        parts.append(f"{size(record['memory_bytes']):>7}")
    if record.get("skipped_steps"):
        parts.append(f"{record['skipped_steps']:,} skipped")
    if record.get("eta_s") is not None:
        parts.append(f"left {duration(record['eta_s'])}")
    return "  ".join(parts)


def train_postfix(record: dict[str, Any]) -> str:
    """What fits beside a bar, which already tells steps and the time left."""
    parts = [f"loss {_number(record.get('loss'), 0, 3)}"]
    if record.get("top1") is not None:
        parts.append(f"top-1 {record['top1']:.1f} %")
    parts.append(f"{count(record.get('images_per_s'))} img/s")
    if record.get("perturb_share"):
        parts.append(f"perturb {percent(record['perturb_share'])}")
    if record.get("skipped_steps"):
        parts.append(f"{record['skipped_steps']:,} skipped")
    return ", ".join(parts)


def eval_line(record: dict[str, Any]) -> str:
    """An evaluation as one line."""
    line = (
        f"evaluated at step {record['step']:,} (epoch {_number(record.get('epoch'), 0, 2)}):"
        f"  top-1 {_number(record.get('top1'), 0, 2)} %"
        f"  top-5 {_number(record.get('top5'), 0, 2)} %"
        f"  loss {_number(record.get('loss'), 0, 4)}"
    )
    samples = record.get("num_samples")
    return f"{line}  ({samples:,} images)" if samples is not None else line


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

"""Records as lines of text for the console."""

from collections.abc import Mapping
from typing import Any

from rwp_dist.base.text import DASH, count, duration, percent, plural, size
from rwp_dist.config.tree import Settings


def title_line(settings: Settings, position: tuple[int, int] | None = None) -> str:
    """First line of a run: ``[5/18] m-rwp, seed 0``; ``position`` is the part in brackets."""
    title = f"{settings.run.label or settings.method.name}, seed {settings.run.seed}"
    return title if position is None else f"[{position[0]}/{position[1]}] {title}"


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
    """A train record as one line; columns that are None or missing are left out."""
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
    """As much of a train record as fits beside the bar.

    Steps and the time left are part of the bar already.

    Args:
        room: width that is free, in characters.
    """
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
    ]
    for weights in ("trained", "average"):  # those that are not the result
        if record.get(f"{weights}_top1") is not None:
            parts.append(f"({weights} weights {record[f'{weights}_top1']:.2f} %)")
    parts += _troubles(record)
    return "  ".join(parts)


def loss_text(value: float | None, digits: int = 4) -> str:
    """A loss: ``2.3026``, ``120.50``, ``1.80e+16``."""
    if value is None:
        return DASH
    if abs(value) >= 1e4:
        return f"{value:.2e}"
    return f"{value:.{digits if abs(value) < 99.5 else 2}f}"


def _troubles(record: Mapping[str, Any]) -> list[str]:
    """Skipped updates and samples that could not be read, if there are any."""
    parts = []
    if record.get("skipped_steps"):
        parts.append(f"{record['skipped_steps']:,} skipped")
    if record.get("bad_samples"):
        parts.append(plural(record["bad_samples"], "bad sample"))
    return parts


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{DASH:>{width}}" if value is None else f"{value:{width}.{digits}f}"

"""Answers of a network by class in the run directory: JSON, tables and a picture."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rwp_dist.base import clock
from rwp_dist.base.errors import RunDirError
from rwp_dist.base.files import write_bytes, write_json, write_text
from rwp_dist.record.directory import RunDir
from rwp_dist.run.per_class import PerClass


def write_per_class(
    run_dir: RunDir, name: str, found: PerClass, about: dict[str, Any], *, picture: bool = True
) -> Path:
    """Write ``per_class/NAME.json``; with ``picture`` also the tables and the picture.

    Args:
        run_dir: the run.
        name: of the data.
        found: the answers.
        about: what was evaluated, for the JSON.
        picture: whether to write ``NAME.csv`` (a class on each line), ``NAME-confusion.csv`` (the
            matrix) and ``NAME.png``.

    Returns:
        The path without its ending.

    Raises:
        RunDirError: a file cannot be written.
    """
    path = run_dir.per_class / name
    classes = [
        {"class": own, "images": images, "top1": top1}
        for own, images, top1 in zip(
            found.names, found.num_images.tolist(), found.top1, strict=True
        )
    ]
    content = {"time": clock.now(), **about, "classes": classes, "confused": found.confused()}
    try:
        run_dir.per_class.mkdir(exist_ok=True)
        write_json(path.with_name(f"{name}.json"), content)
        if picture:
            from rwp_dist.run.per_class_plot import draw_per_class  # matplotlib takes a second

            write_text(path.with_name(f"{name}.csv"), _table(found))
            write_text(path.with_name(f"{name}-confusion.csv"), _matrix(found))
            write_bytes(path.with_name(f"{name}.png"), draw_per_class(found))
    except OSError as error:
        raise RunDirError(
            f"{run_dir.per_class}: cannot be written ({error.strerror})",
            cure="make the run directory writable and start the same command again",
        ) from None
    return path


def _table(found: PerClass) -> str:
    """A line for each class, with the wrong answer that it gets most often."""
    answers: dict[int, tuple[int, int]] = {}
    for right, answer, count in found.confused():
        answers.setdefault(right, (answer, count))
    rows: list[Sequence[Any]] = [("class", "images", "top1", "taken_for", "taken_for_images")]
    images = found.num_images.tolist()
    for number, (name, top1) in enumerate(zip(found.names, found.top1, strict=True)):
        other, count = "", 0
        if number in answers:
            answer, count = answers[number]
            other = found.names[answer]
        rows.append((name, images[number], "" if top1 is None else f"{top1:.2f}", other, count))
    return _csv(rows)


def _matrix(found: PerClass) -> str:
    """A line for each right class, a column for each answer."""
    counts = zip(found.names, found.counts.tolist(), strict=True)
    return _csv([("right class", *found.names), *((name, *row) for name, row in counts)])


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()

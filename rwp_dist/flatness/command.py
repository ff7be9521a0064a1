"""``rwp-dist flatness``: measure every run, then draw and tabulate all of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from rwp_dist.base import disk
from rwp_dist.base.errors import RwpError
from rwp_dist.base.files import write_bytes, write_json
from rwp_dist.base.fonts import fonts_for
from rwp_dist.compare.pictures import metadata_of
from rwp_dist.compare.rows import make_rows
from rwp_dist.compare.runs import collect
from rwp_dist.flatness import slices
from rwp_dist.flatness.curves import adversarial_pieces, random_pieces
from rwp_dist.flatness.hessian import check_library, hessian_pieces
from rwp_dist.flatness.landscape import Landscape, exact_arithmetic, read_sample
from rwp_dist.flatness.measured import Measured
from rwp_dist.flatness.pieces import Advance, Piece, compute_pieces
from rwp_dist.flatness.plot import picture, picture_of_slices
from rwp_dist.flatness.runs import Run
from rwp_dist.flatness.table import tables
from rwp_dist.process.group import choose_device, process_group, same_on_all_ranks
from rwp_dist.process.progress import progress_bar
from rwp_dist.process.stages import stage
from rwp_dist.run.evaluate import load_network


@dataclass(frozen=True)
class Request:
    """What is measured."""

    images: int = 1000
    """Training images of the sample, at most."""
    batch: int = 100
    """Images of a pass, and of an adversarial perturbation."""
    directions: int = 10
    """Random directions."""
    hessian: bool = False
    slices: Sequence[str] = ()
    """``around``, ``between``, or both."""


class Meter:
    """Passes over the sample that are done, for the progress bar."""

    def __init__(self, show: Callable[[int, int], None]) -> None:
        self._show, self._done, self.total = show, 0.0, 0.0

    def add(self, passes: float) -> None:
        """Some more are done."""
        self._done = min(self._done + passes, self.total)
        self._show(round(self._done), round(self.total))


def measure(runs: Sequence[Run], request: Request, out: Path) -> str:
    """Measure runs, write their ``flatness.json``, and draw all of them into ``out``.

    Every rank of a group calls it.

    Returns:
        Tables and what was written, for a terminal; empty on other ranks than 0.

    Raises:
        ConfigError: the library for the Hessian is missing, or no slice goes through these runs.
        CheckpointError: a checkpoint cannot be loaded, or is not of its run's network.
        DataError: the sample cannot be read.
        RunDirError: a run directory cannot be written to.
        RwpError: memory does not suffice, a loss is not finite, or ``out`` cannot be written to.
    """
    if request.hessian:
        check_library()
    device = choose_device(runs[0].settings.run.device)
    with process_group(device), exact_arithmetic():
        with stage("reading the sample and the networks"), same_on_all_ranks():
            sample = read_sample(runs[0].settings, request.images, request.batch, device)
            networks = [load_network(run.settings, run.checkpoint, device) for run in runs]
            landscapes = [
                Landscape(run.name, network, run.settings, sample)
                for run, network in zip(runs, networks, strict=True)
            ]
            cuts = list(_cuts(runs, landscapes, request.slices))
        with progress_bar("pass") as show:
            meter = Meter(show)
            work = [_pieces(landscape, request, meter.add) for landscape in landscapes]
            meter.total = sum(piece.passes for pieces in work for piece in pieces)
            meter.total += sum(piece.passes for _, cut in cuts for piece in cut.pieces())
            measured = [
                Measured.of(compute_pieces(run.pieces, pieces, meter.add))
                for run, pieces in zip(runs, work, strict=True)
            ]
            drawn = [
                cut.as_dict(compute_pieces(run.pieces, cut.pieces(), meter.add))
                for run, cut in cuts
            ]
        with same_on_all_ranks():
            return _report(runs, measured, drawn, out) if dist.get_rank() == 0 else ""


def _pieces(landscape: Landscape, request: Request, advance: Advance) -> list[Piece]:
    pieces = random_pieces(landscape, request.directions) + adversarial_pieces(landscape)
    return pieces + (hessian_pieces(landscape, advance) if request.hessian else [])


def _cuts(
    runs: Sequence[Run], landscapes: Sequence[Landscape], kinds: Sequence[str]
) -> Iterator[tuple[Run, slices.Slice]]:
    """Slices, each with the run in whose directory its pieces are kept."""
    if "around" in kinds:
        for run, landscape in zip(runs, landscapes, strict=True):
            yield from ((run, cut) for cut in slices.around(landscape))
    if "between" in kinds:
        yield runs[0], slices.between(landscapes)


def _report(
    runs: Sequence[Run], measured: Sequence[Measured], drawn: Sequence[dict[str, Any]], out: Path
) -> str:
    """Write all files; the tables, and what was written."""
    for run, each in zip(runs, measured, strict=True):
        if not math.isfinite(each.numbers()["flatness.loss"]):
            raise RwpError(
                f"{run.checkpoint}: the loss of its network is not a finite number of nats",
                cure="name an earlier checkpoint with --checkpoint",
            )
    written = [out / "flatness.png"]
    try:
        for run, each in zip(runs, measured, strict=True):
            content = each.as_dict() | {"checkpoint": run.checkpoint.name}
            run.directory.write_measurement("flatness", content)
        paths = [run.directory.path for run in runs]
        rows, metadata = make_rows(collect(paths)[0]), metadata_of(paths, out)
        by_path = dict(zip(paths, measured, strict=True))
        names = [*(row.title for row in rows), *(run.name for run in runs)]
        with fonts_for(names, formulas=True):
            write_bytes(written[0], picture(rows, by_path, metadata))
        for kind in dict.fromkeys(cut["kind"] for cut in drawn):
            own = [cut for cut in drawn if cut["kind"] == kind]
            files = [out / f"flatness-{kind}.{end}" for end in ("png", "json")]
            with fonts_for(names, formulas=True):
                write_bytes(files[0], picture_of_slices(own, metadata))
            write_json(files[1], own)
            written += files
    except OSError as error:
        raise disk.unwritable(out, error, "give --out") from None
    return "\n".join([*tables(rows), "", f"Written: {', '.join(map(str, written))}"])

"""What grows with data, shards, runs and records, and how: figures by size, exponents and goals.

    OMP_NUM_THREADS=1 chrt -r 10 python benchmarks/growth.py            # all, some fifteen minutes
    OMP_NUM_THREADS=1 chrt -r 10 python benchmarks/growth.py compare    # some rows
    OMP_NUM_THREADS=1 chrt -r 10 python benchmarks/growth.py --huge     # also 100 M samples

Each figure comes from a process of its own, which does the same with a tiny example before, so that
imports do not count. CPU seconds are user and system; unique memory is what one process alone has,
while another has the same data set open. Data sets are made on the spot from tiny images: hard
links to few shards, and a manifest. They take 3 GB of the folder for temporary files (TMPDIR), with
``--huge`` 8 GB. Exit code 1: a goal is missed.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
from growing import making, opening, runs
from growing.row import Row, heading

SAMPLES, HUGE = (10_000, 128_000, 1_280_000, 14_000_000), 100_000_000


class Group(NamedTuple):
    """Rows of the same sizes."""

    counted: str
    sizes: tuple[int, ...]
    rows: Callable[[Path, tuple[int, ...]], Iterator[Row]]


GROUPS = {
    "open": Group("samples", SAMPLES, opening.rows),
    "verify": Group("shards", (250, 1000, 4000), making.verify_rows),
    "write": Group("images", (500, 2000), making.write_rows),
    "held": Group("images", (100_000, 400_000), making.held_rows),
    "compare": Group("runs", (125, 250, 500, 1000), runs.compare_rows),
    "metrics": Group("lines", (10_000, 100_000, 1_000_000), runs.metrics_rows),
    "start": Group("", (1,), runs.start_rows),
}


@click.command(help=__doc__)
@click.argument("groups", nargs=-1, type=click.Choice(list(GROUPS)))
@click.option("--sizes", help="Of one group, instead of the usual ones: 10000,128000.")
@click.option("--huge", is_flag=True, help="Also 100 M samples.")
def main(groups: tuple[str, ...], sizes: str | None, huge: bool) -> None:
    if sizes is not None and len(groups) != 1:
        raise click.UsageError("--sizes are of one group: name it")
    met = True
    for name in groups or GROUPS:
        counted, usual, rows = GROUPS[name]
        chosen = usual if sizes is None else tuple(map(int, sizes.split(",")))
        chosen += (HUGE,) if huge and name == "open" else ()
        click.echo(heading(counted, chosen))
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(Path(folder), chosen):
                click.echo(str(row))
                met &= row.met
    sys.exit(not met)


if __name__ == "__main__":
    main()

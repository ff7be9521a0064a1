"""What grows with data, shards, runs and records, and how: figures by size, exponents, goals.

OMP_NUM_THREADS=1 chrt -r 10 python benchmarks/growth.py            # some fifteen minutes
"""

import tempfile
from pathlib import Path

import click
from growing import opening
from growing.row import heading

SIZES = (10_000, 128_000, 1_280_000, 14_000_000)


@click.command(help=__doc__)
@click.option("--sizes", default=",".join(map(str, SIZES)), help="Samples of the data sets.")
def main(sizes: str) -> None:
    samples = [int(size) for size in sizes.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        click.echo(heading("samples", samples))
        for row in opening.rows(folder, samples):
            click.echo(str(row))


if __name__ == "__main__":
    main()

"""``shards verify`` and ``shards stats``."""

from pathlib import Path

import click

from rwp_dist.base.errors import DataError
from rwp_dist.base.text import plural
from rwp_dist.base.urls import shown
from rwp_dist.process.progress import progress_bar
from rwp_dist.shards.commands.reports import (
    report_unoriented,
)
from rwp_dist.shards.options import (
    FOLDER,
    OPENER,
    SEED,
    WORKERS,
)


@click.command("verify", short_help="Check shards against their manifest; list every fault.")
@click.argument("folder", type=FOLDER)
@click.option(
    "--level",
    type=click.Choice(("size", "sha256", "decode")),
    default="sha256",
    show_default=True,
    help="Check sizes and indexes; or every byte too; or decode every image too.",
)
@WORKERS
@OPENER
@click.option("--report", type=FOLDER, help="Also write the faults to this file, tab-separated.")
def verify_command(
    folder: Path, level: str, workers: int, opener: str | None, report: Path | None
) -> None:
    """Check the shards in FOLDER against their manifest and list every fault.

    Exits with 1 if there is a fault.

    Samples are counted from 0 in the order of their shard.
    """
    from rwp_dist.data.format.manifest import JOINED_NAME
    from rwp_dist.shards.verify import UNDECODABLE, verify_shards, write_report

    faults, num_shards, num_samples, num_unoriented = [], 0, 0, 0
    with progress_bar("shard") as progress:
        for check in verify_shards(folder, level, workers, opener, progress):
            faults += check.faults
            num_shards += 1
            num_samples += check.num_samples
            num_unoriented += check.num_unoriented
    faults.sort()
    for fault in faults:
        place = shown(fault.shard) + (f" sample {fault.sample}" if fault.sample >= 0 else "")
        click.echo(f"{place}: {fault.what}")
    if report is not None:
        write_report(faults, report)
    report_unoriented(folder, num_unoriented)
    if faults:
        bad = plural(len({fault.shard for fault in faults}), "shard")
        cure = "fetch or write these shards again"
        if {fault.shard for fault in faults} == {JOINED_NAME}:
            cure = f"make it again with `rwp-dist shards index {folder}`; the shards are good"
        if all(UNDECODABLE in fault.what for fault in faults):
            cure = (
                "the shards are as they were written: training skips such images and counts them; "
                "to be rid of them, write the shards again without them"
            )
        raise DataError(f"{folder}: {plural(len(faults), 'fault')} in {bad}", cure=cure)
    found = f"{plural(num_shards, 'shard')} with {plural(num_samples, 'sample')}"
    click.echo(f"{folder}: {found}, all good ({level}).")


@click.command("stats", short_help="Count classes and sizes; draw a picture of samples.")
@click.argument("folder", type=FOLDER)
@click.option("--contact-sheet", type=FOLDER, help="Write a PNG of random samples with labels.")
@click.option("--samples", type=click.IntRange(1, 400), default=40, help="Images on the sheet.")
@SEED
def stats_command(folder: Path, contact_sheet: Path | None, samples: int, seed: int) -> None:
    """Counts, classes and sizes of the shards in FOLDER, and a picture of random samples."""
    from rwp_dist.data.dataset import load_dataset
    from rwp_dist.data.format.manifest import Manifest
    from rwp_dist.shards import stats

    manifest = Manifest.load(folder)
    manifest.need_indexes()
    if contact_sheet and not manifest.is_local:
        raise DataError(
            f"{folder}: images of remote shards cannot be drawn", cure="omit --contact-sheet"
        )
    dataset = load_dataset([manifest], manifest.num_classes, cache=None)
    drawn = stats.draw_samples(dataset, 400, seed) if manifest.is_local else []
    click.echo(stats.describe_shards(manifest, dataset, drawn))
    if contact_sheet is not None:
        stats.contact_sheet(drawn[:samples], manifest.classes, contact_sheet)
        click.echo(f"{contact_sheet}: {min(samples, len(drawn))} random samples")

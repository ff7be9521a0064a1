"""What several commands do, and report on stdout."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rwp_dist.base.errors import DataError
from rwp_dist.base.text import plural
from rwp_dist.base.urls import shown
from rwp_dist.process.progress import progress_bar

if TYPE_CHECKING:
    from rwp_dist.data.format.manifest import Manifest
    from rwp_dist.shards.sources import Listing


def write_and_report(
    listing: "Listing", out: Path, *, part: tuple[int, int] = (0, 1), **options: Any
) -> None:
    """Call ``write_shards`` with a progress bar, and say what is there now."""
    from rwp_dist.shards.write import BAD_NAME, write_shards

    title = f"part {part[0]}/{part[1]}" if part[1] > 1 else None
    with progress_bar("img", title) as progress:
        report = write_shards(listing, out, part=part, progress=progress, **options)
    if report.num_kept or report.num_stale:
        kept = f"{out}: {plural(report.num_kept, 'shard')} kept"
        anew = f", {report.num_stale:,} made anew (their images have changed, or were unchecked)"
        click.echo(f"{kept}{anew if report.num_stale else ''}.")
    if report.num_bad:
        left_out = plural(report.num_bad, "image")
        click.echo(f"{out}: {left_out} left out (not readable); {out / BAD_NAME} lists them.")
    report_unoriented(out, report.num_unoriented)
    if report.num_missing:
        click.echo(
            f"{out}: this part is finished; {report.num_missing:,} of {report.num_shards:,} shards "
            "are still missing; the last part writes the manifest (if none does, repeat one)."
        )
    else:
        report_shards(out, report.num_samples, report.num_shards)


def manifest_with_names(folder: str) -> "Manifest":
    """The manifest of other shards, which has names of its classes."""
    from rwp_dist.data.dataset import load_manifest

    manifest = load_manifest(folder, key="--classes-of")
    if manifest.classes is None:
        raise DataError(
            f"{shown(folder)}: these shards have no names of their classes",
            key="--classes-of",
            cure="index them again with `rwp-dist shards index --classes FILE`",
        )
    return manifest


def first_words(words: Sequence[str]) -> str:
    """The first words of a list."""
    return ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")


def report_shards(folder: Path, num_samples: int, num_shards: int) -> None:
    """Say what a folder holds when all its shards are there."""
    samples, shards = plural(num_samples, "sample"), plural(num_shards, "shard")
    click.echo(f"{folder}: {samples} in {shards}, with a manifest")


def report_unoriented(folder: Path, count: int) -> None:
    """Say how many images other programs show turned."""
    if count:
        click.echo(
            f"{folder}: {plural(count, 'image')} with an EXIF orientation that is not applied, as "
            "in ImageFolder; to turn them, write the shards with --orient."
        )


def report_left_out(source: str, left_out: Mapping[str, int]) -> None:
    """Say how many files of a source are in no sample, and why."""
    if not left_out:
        return
    total = plural(sum(left_out.values()), "file")
    kinds = ", ".join(
        f"{count:,} x {kind}"
        for kind, count in sorted(left_out.items(), key=lambda c: (-c[1], c[0]))
    )
    click.echo(f"{source}: {total} left out ({kinds}).")

"""``shards index`` and ``shards adopt``: tars that exist."""

from pathlib import Path

import click

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.text import plural
from rwp_dist.base.urls import shown
from rwp_dist.process.paths import PLACE
from rwp_dist.process.progress import progress_bar
from rwp_dist.shards.commands.reports import (
    manifest_with_names,
    report_left_out,
    report_shards,
)
from rwp_dist.shards.options import (
    CLASSES,
    CLASSES_OF,
    FOLDER,
    IMAGE_KEY,
    LABEL_KEY,
    OPENER,
    WORKERS,
)


@click.command("index", short_help="Add indexes and a manifest to tars that you have.")
@click.argument("urls", nargs=-1, required=True, type=PLACE, metavar="URLS...")
@click.option("--out", type=FOLDER, help="Folder for the indexes; by default that of the shards.")
@LABEL_KEY
@IMAGE_KEY
@OPENER
@CLASSES
@CLASSES_OF
@WORKERS
def index_command(
    urls: tuple[str, ...],
    out: Path | None,
    label_key: str | None,
    image_key: str | None,
    opener: str | None,
    classes: Path | None,
    classes_of: str | None,
    workers: int,
) -> None:
    """Add indexes and a manifest to tars that you have; the tars are not changed.

    URLS are folders, files, addresses that training can read (http://, https://, s3://, gs://),
    or patterns of them such as in-{000000..000099}.tar.
    User, password and signature of an address are used, and not written into the manifest.
    Labels come from .cls files, or from a field of .json files with --label-key. Tars that are
    damaged or cut short are refused. What is left out is counted by kind. If it is killed or
    stopped, start it again: finished shards are kept, and read anew if they have changed since.
    """
    if classes and classes_of:
        raise ConfigError("it excludes --classes-of", key="--classes", cure="give one of them")
    from rwp_dist.shards.index import index_shards, load_class_names

    names = None if classes is None else load_class_names(classes)
    with progress_bar("shard") as progress:
        report = index_shards(
            urls,
            out,
            label_key=label_key,
            image_key=image_key,
            opener=opener,
            classes=names,
            classes_of=None if classes_of is None else manifest_with_names(classes_of),
            workers=workers,
            progress=progress,
        )
    manifest = report.manifest
    if report.num_kept or report.num_stale:
        kept = f"{manifest.location}: {plural(report.num_kept, 'shard')} kept"
        anew = f", {report.num_stale:,} read anew (changed, or without an index)"
        click.echo(f"{kept}{anew if report.num_stale else ''}.")
    _report_secrets(urls)
    report_shards(Path(manifest.location), manifest.num_samples, len(manifest.shards))
    report_left_out(manifest.location, report.left_out)


@click.command("adopt", short_help="Train at once from shards whose counts are known.")
@click.argument("urls", nargs=-1, required=True, type=PLACE, metavar="URLS...")
@click.option("--out", type=FOLDER, help="Folder of the manifest; by default that of the shards.")
@click.option("--split", help="Which part of a collection that has several, such as train.")
@click.option(
    "--samples-per-shard",
    type=click.IntRange(1),
    help="Samples of every shard but the last, if the collection does not say its counts.",
)
@LABEL_KEY
@IMAGE_KEY
@OPENER
@CLASSES
@CLASSES_OF
def adopt_command(
    urls: tuple[str, ...],
    out: Path | None,
    split: str | None,
    samples_per_shard: int | None,
    label_key: str | None,
    image_key: str | None,
    opener: str | None,
    classes: Path | None,
    classes_of: str | None,
) -> None:
    """Write a manifest for shards from the counts that are known.

    URLS is a folder, local or remote, with _info.json (timm, Hugging Face), sizes.json (open_clip)
    or index.json (wids, webdataset); or such a file by its own name; or patterns of shards such as
    's3://bucket/{00000..00099}.tar' that img2dataset has written, with a _stats.json beside each.

    No shard is read, so terabytes are ready at once: training indexes each shard when it first
    reads it, and compares its count. Until then labels are not known: name the classes by
    --classes, if there is no classnames.txt beside the shards. `rwp-dist shards index FOLDER`
    indexes all of them, for data.sampling=balanced, `verify` and `stats`.
    """
    from rwp_dist.data.format.sample import Fields
    from rwp_dist.shards.adopt import adopt_shards
    from rwp_dist.shards.index import load_class_names

    names = None if classes is None else load_class_names(classes)
    if classes_of is not None:
        names = list(manifest_with_names(classes_of).classes or ())
    with progress_bar("shard") as progress:
        manifest, source = adopt_shards(
            urls,
            out,
            split=split,
            samples_per_shard=samples_per_shard,
            classes=names,
            fields=Fields(label_key, image_key),
            opener=opener,
            progress=progress,
        )
    _report_secrets(urls)
    report_shards(Path(manifest.location), manifest.num_samples, len(manifest.shards))
    click.echo(f"The counts are those of {source}; each shard is indexed when it is first read.")


def _report_secrets(urls: tuple[str, ...]) -> None:
    if any(shown(url) != url for url in urls):
        click.echo(
            "The manifest does not keep user, password or signature: upload it beside the shards "
            "and train from that address with them, or put the password into ~/.netrc."
        )

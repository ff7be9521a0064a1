"""``rwp-dist shards ...``: make data, describe it, check it, look at it."""

import errno
from pathlib import Path
from typing import Any

import click

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.shards.bar import progress_bar
from rwp_dist.shards.task import find_part


class LocalPath(click.Path):
    """A path of this machine, perhaps as a ``file:`` URL.

    Of ``s3://bucket/x`` pathlib would make the folder ``s3:/bucket/x``.

    Raises:
        ConfigError: it is a URL.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        from rwp_dist.data.remote.openers import local_path

        path = local_path(str(value))
        if path is None:
            raise ConfigError(
                f"{value}: this place is remote; give a local folder, and copy its shards there "
                "when they are finished; for shards that lie there already, give the FOLDER of "
                "`rwp-dist shards index URLS --out FOLDER`."
            )
        return super().convert(str(path), param, ctx)


FOLDER = LocalPath(path_type=Path)
WORKERS = click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes."
)
SEED = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random."
)
LABEL_KEY = click.option("--label-key", help="Field of each .json that holds the label.")
OPENER = click.option(
    "--opener", metavar="MODULE:FUNCTION", help="Opens remote shards, as data.opener does."
)
PART = click.option(
    "--part",
    metavar="K/N",
    help="Write only shards K, K+N, ... (K from 0). Unless given, tasks of a Slurm step share the "
    "shards (SLURM_PROCID of SLURM_NTASKS).",
)
PER_SHARD = click.option("--samples-per-shard", type=click.IntRange(1), help="At most; or 1,000.")


CURES = {
    errno.EACCES: "name a place that you may read and write, or have its permissions changed",
    errno.EPERM: "name a place that you may read and write, or have its permissions changed",
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "name a folder, or remove the file that stands in its place",
    errno.EEXIST: "name another place, or remove what is there",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOSPC: "make room there and start the same command again, or name another place",
    errno.EDQUOT: "make room there and start the same command again, or name another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer --workers",
}
"""What to do about an error of the operating system."""


class ShardCommands(click.Group):
    """Commands whose errors of the operating system are one sentence, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command.

        Raises:
            DataError: a file or a connection failed where no step of the command said more of it.
        """
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE and error.filename is None:
                raise  # whoever read the output has gone: click ends quietly
            name = error.filename or f"rwp-dist shards {ctx.invoked_subcommand}"
            cure = CURES.get(error.errno or 0, "see to that and start the same command again")
            raise DataError(f"{name}: {error.strerror or error}; {cure}.") from error


@click.group(
    cls=ShardCommands, short_help="Make data as shards; describe them, check them, look at them."
)
def shards() -> None:
    """Everything about shards: the tar files, with a manifest, that training reads.

    Make them from your images (write), or index tars that you have (index). Find out whether
    they are whole (verify) and what is in them (stats). Without data of your own: digits is small
    and real, cifar100 is read from its archive, synthetic is as large as you like, for benchmarks.
    """


@shards.command("write", short_help="Write images (folders, a list, tars) as shuffled shards.")
@click.argument("source")
@click.option("--out", type=FOLDER, required=True, help="Folder for the shards.")
@PER_SHARD
@click.option("--shard-bytes", type=click.IntRange(1), help="Instead: about; of source files.")
@WORKERS
@SEED
@click.option("--short-side", type=click.IntRange(8), help="Shrink images to this; try 256.")
@click.option(
    "--quality", type=click.IntRange(1, 100), help="JPEG quality of shrunk images; 90 unless given."
)
@LABEL_KEY
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
    label_key: str | None,
    part: str | None,
) -> None:
    """Write SOURCE as shards, shuffled over all of it.

    SOURCE is a folder with a folder of images per class (sorted names are labels 0, 1, ...), a
    list file (lines of path<TAB>label, paths relative to the file), or tars to shuffle anew (a
    folder of them, or a pattern such as in-{000000..000099}.tar; only images and labels are taken
    over).

    Killed or stopped, start it again: finished shards are kept. The same arguments give the same
    bytes with any number of workers and tasks. In a Slurm job, run it under srun: each task writes
    its share, and the one that ends last writes the manifest.
    """
    if samples_per_shard and shard_bytes:
        raise ConfigError("--samples-per-shard and --shard-bytes exclude each other; give one.")
    if quality is not None and short_side is None:
        raise ConfigError("--quality: images are only re-encoded with --short-side; give both.")
    own = find_part(part)
    from rwp_dist.shards.sources import list_source

    listing = list_source(source, label_key, workers)
    if listing.num_skipped:
        left_out = _count(listing.num_skipped, "file")
        click.echo(f"{source}: {left_out} left out (names without an image's ending).")
    from rwp_dist.shards.pack import Shrink
    from rwp_dist.shards.write import write_shards

    with progress_bar("img", own) as progress:
        report = write_shards(
            listing,
            out,
            samples_per_shard=samples_per_shard,
            shard_bytes=shard_bytes,
            seed=seed,
            shrink=Shrink(short_side, quality or 90) if short_side else None,
            part=own,
            workers=workers,
            progress=progress,
        )
    _say(out, report.num_samples, report.num_shards, report.num_missing)


@shards.command("index", short_help="Add indexes and a manifest to tars that you have.")
@click.argument("urls", nargs=-1, required=True, metavar="URLS...")
@click.option("--out", type=FOLDER, help="Folder for the indexes; beside the shards unless given.")
@LABEL_KEY
@OPENER
@click.option("--classes", type=FOLDER, help="File with the name of label 0, 1, ... on each line.")
@WORKERS
def index_command(
    urls: tuple[str, ...],
    out: Path | None,
    label_key: str | None,
    opener: str | None,
    classes: Path | None,
    workers: int,
) -> None:
    """Add indexes and a manifest to tars that somebody else made, and leave these as they are.

    URLS are folders, files, addresses that training can read (http://, https://, s3://, gs://,
    pipe:), or patterns of them such as in-{000000..000099}.tar.
    Labels come from .cls files, or from a field of .json files with --label-key. Tars that are
    damaged or cut short are refused. Killed or stopped, start it again: finished shards are kept.
    """
    from rwp_dist.shards.adopt import index_shards, load_class_names

    names = None if classes is None else load_class_names(classes)
    with progress_bar("shard") as progress:
        manifest = index_shards(
            urls,
            out,
            label_key=label_key,
            opener=opener,
            classes=names,
            workers=workers,
            progress=progress,
        )
    _say(Path(manifest.location), manifest.num_samples, len(manifest.shards))


@shards.command("verify", short_help="Check shards against their manifest; list every fault.")
@click.argument("folder", type=FOLDER)
@click.option(
    "--level",
    type=click.Choice(("size", "sha256", "decode")),
    default="sha256",
    show_default=True,
    help="Sizes and indexes; or every byte; or also decode every image.",
)
@WORKERS
@OPENER
@click.option("--report", type=FOLDER, help="Write faults here too: shard, sample, label, fault.")
def verify_command(
    folder: Path, level: str, workers: int, opener: str | None, report: Path | None
) -> None:
    """Check the shards in FOLDER against their manifest; list every fault; exit 1 if there is one.

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
        place = fault.shard if fault.sample < 0 else f"{fault.shard} sample {fault.sample}"
        click.echo(f"{place}: {fault.what}")
    if report is not None:
        write_report(faults, report)
    if faults:
        bad = len({fault.shard for fault in faults})
        cure = "fetch or write these shards again"
        if all(UNDECODABLE in fault.what for fault in faults):
            cure = (
                "the shards are as they were written: training leaves such images out and counts "
                "them; without them, write the shards again"
            )
        raise DataError(
            f"{folder}: {_count(len(faults), 'fault')} in {_count(bad, 'shard')}; {cure}."
        )
    found = f"{_count(total, 'shard')} with {_count(num_samples, 'sample')}"
    click.echo(f"{folder}: {found}, all good ({level}).")


@shards.command("stats", short_help="Count classes and sizes; draw a picture of samples.")
@click.argument("folder", type=FOLDER)
@click.option("--contact-sheet", type=FOLDER, help="Write a PNG of random samples with labels.")
@click.option("--samples", type=click.IntRange(1, 400), default=40, help="Images on the sheet.")
@SEED
def stats_command(folder: Path, contact_sheet: Path | None, samples: int, seed: int) -> None:
    """Counts, classes and sizes of the shards in FOLDER, and a picture of random samples."""
    from rwp_dist.shards.sheet import contact_sheet as draw_sheet
    from rwp_dist.shards.stats import ShardSet, describe_shards

    found = ShardSet(folder)
    drawn = found.draw(400, seed) if found.is_local or contact_sheet else []
    click.echo(describe_shards(found, drawn))
    if contact_sheet is not None:
        draw_sheet(drawn[:samples], found.manifest.classes, contact_sheet)
        click.echo(f"{contact_sheet}: {min(samples, len(drawn))} random samples")


@shards.command("digits", short_help="Write 1,797 real handwritten digits as shards.")
@click.option("--out", type=FOLDER, default=Path("data/digits"), show_default=True)
@click.option("--label-noise", default=0.4, show_default=True, help="Share of labels replaced.")
@click.option("--seed", default=0, show_default=True)
@click.option("--folds", default=0, show_default=True, help="Also cut the training side in folds.")
def digits_command(out: Path, label_noise: float, seed: int, folds: int) -> None:
    """Write scikit-learn's 1,797 real handwritten digits as WebDataset shards."""
    if not 0.0 <= label_noise <= 1.0:
        raise ConfigError(f"--label-noise: {label_noise} is no share; give 0 to 1.")
    from rwp_dist.shards.digits import write_digits

    report = write_digits(out, label_noise=label_noise, seed=seed, folds=folds)
    click.echo(
        f"{out}: {report.num_train:,} training images ({report.num_noisy} labels replaced) and "
        f"{report.num_test} clean test images"
    )


@shards.command("cifar100", short_help="Write CIFAR-100 from its archive as shards.")
@click.argument("archive", type=FOLDER)
@click.option("--out", type=FOLDER, default=Path("data/cifar100"), show_default=True)
@WORKERS
@SEED
def cifar100_command(archive: Path, out: Path, workers: int, seed: int) -> None:
    """Write ARCHIVE, cifar-100-python.tar.gz, as shards in OUT/train and OUT/test."""
    from rwp_dist.shards.cifar import SPLITS, cifar100_listing
    from rwp_dist.shards.write import write_shards

    for split in SPLITS:
        folder = out / split
        listing = cifar100_listing(archive, split)
        with progress_bar("img") as progress:
            report = write_shards(listing, folder, seed=seed, workers=workers, progress=progress)
        _say(folder, report.num_samples, report.num_shards)


@shards.command("synthetic", short_help="Write images without content, for benchmarks.")
@click.option("--out", type=FOLDER, required=True, help="Folder for the shards.")
@click.option("--num", type=click.IntRange(1), required=True, help="Images.")
@click.option("--size", default="500x375", show_default=True, help="Pixels, WIDTHxHEIGHT.")
@click.option("--classes", type=click.IntRange(1), default=1000, show_default=True)
@PER_SHARD
@WORKERS
@SEED
def synthetic_command(
    out: Path,
    num: int,
    size: str,
    classes: int,
    samples_per_shard: int | None,
    workers: int,
    seed: int,
) -> None:
    """Write images of no content that decode as slowly as photographs, for benchmarks."""
    from rwp_dist.shards.synthetic import parse_size, synthetic_listing
    from rwp_dist.shards.write import write_shards

    listing = synthetic_listing(num, *parse_size(size), min(classes, num), seed)
    with progress_bar("img") as progress:
        report = write_shards(
            listing,
            out,
            samples_per_shard=samples_per_shard,
            seed=seed,
            workers=workers,
            progress=progress,
        )
    _say(out, report.num_samples, report.num_shards, report.num_missing)


def _say(folder: Path, num_samples: int, num_shards: int, num_missing: int = 0) -> None:
    """What is there now, or what is still missing."""
    if num_missing:
        click.echo(
            f"{folder}: this part is finished; {num_missing:,} of {num_shards:,} shards are still "
            "missing; the part that ends last writes the manifest (should none, repeat one)."
        )
    else:
        samples, shards = _count(num_samples, "sample"), _count(num_shards, "shard")
        click.echo(f"{folder}: {samples} in {shards}, with a manifest")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

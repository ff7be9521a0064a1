"""``shards write``."""

from pathlib import Path

import click

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.text import plural
from rwp_dist.base.urls import shown
from rwp_dist.process.paths import PLACE
from rwp_dist.shards.commands.reports import (
    first_words,
    manifest_with_names,
    report_left_out,
    write_and_report,
)
from rwp_dist.shards.options import (
    FOLDER,
    IMAGE_KEY,
    LABEL_KEY,
    PART,
    PER_SHARD,
    SEED,
    WORKERS,
    Colour,
)


@click.command("write", short_help="Write images (folders, a list, tars) as shuffled shards.")
@click.argument("source", type=PLACE)
@click.option("--out", type=FOLDER, required=True, help="Folder for the shards.")
@PER_SHARD
@click.option(
    "--shard-bytes", type=click.IntRange(1), help="Instead, about this many source bytes a shard."
)
@WORKERS
@SEED
@click.option("--short-side", type=click.IntRange(8), help="Shrink images to this many pixels.")
@click.option(
    "--orient",
    is_flag=True,
    help="Turn images as their EXIF orientation tag asks for. Training does not turn them, as "
    "torchvision's ImageFolder and timm do not.",
)
@click.option(
    "--background",
    type=Colour(),
    help="Blend transparent images with this colour, such as white or #808080. By default alpha is "
    "dropped, as in ImageFolder.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="JPEG quality of images that are shrunk or turned; 90 by default.",
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
    type=PLACE,
    metavar="DIR",
    help="Take classes and labels of these shards, such as those of training for a validation "
    "folder that may lack some.",
)
@IMAGE_KEY
@click.option(
    "--labels",
    type=FOLDER,
    metavar="FILE",
    help="Table with the label of each image in SOURCE, which is then one folder or tar of images: "
    "rows of a name and a label or class, such as LOC_val_solution.csv or val.txt of ImageNet.",
)
@PART
def write_command(
    source: str,
    out: Path,
    samples_per_shard: int | None,
    shard_bytes: int | None,
    workers: int,
    seed: int,
    short_side: int | None,
    orient: bool,
    background: tuple[int, int, int] | None,
    quality: int | None,
    max_bad: int,
    label_key: str | None,
    classes_of: str | None,
    image_key: str | None,
    labels: Path | None,
    part: tuple[int, int],
) -> None:
    """Write SOURCE as shards, shuffled over all of it.

    SOURCE is a folder with a folder of images per class (sorted names are labels 0, 1, ...; numbers
    are sorted as numbers, and hidden folders and leftovers of file servers such as @eaDir are no
    classes), a list file (lines of path<TAB>label, paths relative to the file), tars to shuffle
    anew (a folder of them, or a pattern such as in-{000000..000099}.tar; only images and labels
    are copied), or a tar with a tar of images per class, as ILSVRC2012_img_train.tar.

    If it is killed or stopped, start it again: finished shards are kept, and those whose images
    have changed since are made anew. The same arguments give the same bytes with any number of
    workers and tasks. In a Slurm job, run it under srun: each task looks after its share of the
    shards, and the last one writes the manifest.
    """
    if samples_per_shard and shard_bytes:
        raise ConfigError(
            "it excludes --shard-bytes", key="--samples-per-shard", cure="give one of them"
        )
    if quality is not None and short_side is None and not orient:
        raise ConfigError(
            "JPEGs are only encoded anew with --short-side or --orient",
            key="--quality",
            cure="give one of them too",
        )
    from rwp_dist.data.format.sample import Fields
    from rwp_dist.shards.listing import list_source
    from rwp_dist.shards.preprocess import Preprocess
    from rwp_dist.shards.sources import with_classes

    listing = list_source(source, Fields(label_key, image_key), workers, labels)
    if classes_of is not None:
        listing = with_classes(
            listing, manifest_with_names(classes_of).classes or (), shown(classes_of)
        )
    if listing.note:
        click.echo(f"{source}: {listing.note} ({first_words(listing.classes or ())}).")
    report_left_out(source, listing.left_out)
    if listing.skipped_folders:
        left_out = plural(len(listing.skipped_folders), "folder")
        click.echo(
            f"{source}: {left_out} left out (hidden, or of a file server or system): "
            f"{first_words(listing.skipped_folders)}."
        )
    numbers = [(name, label) for label, name in enumerate(listing.classes or ()) if name.isdigit()]
    if other := [f"{name[:40]} has label {label}" for name, label in numbers if name != str(label)]:
        click.echo(
            f"{source}: names of classes are numbers but not their labels: {first_words(other)}."
        )
    changes = Preprocess(short_side, orient, background, quality or 90)
    write_and_report(
        listing,
        out,
        samples_per_shard=samples_per_shard,
        shard_bytes=shard_bytes,
        seed=seed,
        preprocess=changes if short_side or orient or background else None,
        max_bad=max_bad,
        part=part,
        workers=workers,
    )

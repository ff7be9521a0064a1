"""``rwp-dist evaluate``: one run after another, on one rank or on many."""

from collections.abc import Sequence

import click
import torch
import torch.distributed as dist

from rwp_dist.evaluation import record, report
from rwp_dist.evaluation.asked import Asked
from rwp_dist.evaluation.class_map import ClassMap
from rwp_dist.evaluation.measure import Measurement
from rwp_dist.evaluation.targets import Target
from rwp_dist.process.group import process_group, same_on_all_ranks
from rwp_dist.process.progress import progress_bar
from rwp_dist.run.per_class_files import write_per_class


def evaluate_runs(
    targets: Sequence[Target],
    asked: Asked,
    device: torch.device,
    *,
    other: bool = False,
    class_map: ClassMap | None = None,
) -> None:
    """Evaluate checkpoints without their optimizers; print the numbers and keep them in the runs.

    Args:
        targets: from ``find_targets``.
        asked: conditions beside the clean network.
        device: where to compute.
        other: whether ``data.val`` is another data set, with classes of its own.
        class_map: what these classes mean, if their names do not say it.

    Raises:
        CheckpointError: a file is not a checkpoint, or not one of its run's network.
        ConfigError: the classes of the other data set are not those of a network.
        DataError: evaluation shards cannot be read.
        RunDirError: a run directory cannot be written.
    """
    with process_group(device):
        for run_dir, settings, path in targets:
            network = Measurement(settings, path, device, other=other, class_map=class_map)
            with progress_bar("img", run_dir.path.name) as progress:
                numbers = network.numbers(asked, progress)
            with same_on_all_ranks():
                if dist.get_rank() == 0:
                    line = report.line(numbers, network.num_samples, network.other)
                    click.echo("\n".join([f"{path}: {line}", *report.beside(numbers)]))
                    if network.other and network.other.answers.note:
                        click.echo(f"{settings.data.val}: {network.other.answers.note}.", err=True)
                    if network.bad:
                        first, count = network.bad[0].reason, len(network.bad)
                        click.echo(f"{count:,} more could not be read. The first: {first}")
                    shown = numbers | record.means_of(numbers)
                    for line in report.tables(shown, asked):
                        click.echo(line)
                    subject = record.subject_of(run_dir, settings, path, network.data_id)
                    record.keep(run_dir, subject, numbers, network.other)
                    if network.per_class:
                        own = record.data_name(run_dir, subject)
                        name = network.other.key if network.other else own
                        files = write_per_class(run_dir, name, network.per_class, subject)
                        click.echo(f"Written: {files}.json, .csv, -confusion.csv and .png")

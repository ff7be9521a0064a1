"""What the dashboard shows, as data that knows nothing of W&B's library.

Names of metrics are those of ``rwp_dist/tracking/columns.py``; bars show numbers of
``summary.json``.
"""

from dataclasses import dataclass
from typing import Literal

from rwp_dist.tracking.columns import STEP

DEVICE_TIME = "eval/device_seconds"
WALL_TIME = "eval/wall_s"


@dataclass(frozen=True)
class Panel:
    """A chart. A line or bar is the mean of a group of runs."""

    title: str
    """Unique in its section. Renaming it makes another panel of it in views that were saved."""

    meaning: str
    """What to look for, as a sentence for ``docs/wandb.md``."""

    y: tuple[str, ...]
    """Names of the metrics of a line, or keys of the summary for bars."""

    x: str = STEP
    """Name of the metric that lines are drawn over; bars have none."""

    kind: Literal["lines", "bars"] = "lines"

    group: Literal["seeds", "method"] = "seeds"
    """seeds: one mean for each W&B group, which holds the seeds of one experiment. method: one for
    each ``method.name``."""


@dataclass(frozen=True)
class Section:
    """Panels under a heading that opens and closes."""

    title: str
    panels: tuple[Panel, ...]

    is_open: bool = False
    """Whether a new view shows it open. A closed one costs W&B's page nothing."""


RESULTS = Section(
    "Results",
    (
        Panel("Test accuracy", "In %, over updates.", ("eval/top1",)),
        Panel(
            "Test accuracy over device time",
            "The fair comparison: SAM's update costs two passes, m-rwp's two run side by side.",
            ("eval/top1",),
            x=DEVICE_TIME,
        ),
        Panel(
            "Test accuracy over wall-clock time",
            "What you waited for, with evaluations and checkpoints.",
            ("eval/top1",),
            x=WALL_TIME,
        ),
        Panel("Final test accuracy", "In %, of finished runs.", ("top1",), kind="bars"),
        Panel("Device time", "Seconds of all ranks together.", ("device_seconds",), kind="bars"),
        Panel(
            "Test accuracy by method",
            "The mean of all runs of a method, whatever their other settings.",
            ("eval/top1",),
            group="method",
        ),
        Panel(
            "Final test accuracy by method",
            "Likewise, of finished runs.",
            ("top1",),
            kind="bars",
            group="method",
        ),
        Panel("Test loss", "Rises before accuracy falls, when a run overfits.", ("eval/loss",)),
        Panel("Calibration error", "How far confidence is from accuracy, in %.", ("eval/ece",)),
        Panel(
            "Test accuracy of the other weights",
            "Of the trained ones if an average of the weights is the result, else of the average.",
            ("eval/trained_top1", "eval/average_top1"),
        ),
        Panel(
            "Test loss of the other weights",
            "Likewise.",
            ("eval/trained_loss", "eval/average_loss"),
        ),
        Panel("Test top-5", "For data with many classes.", ("eval/top5",)),
        Panel("Training loss", "The loss that the method minimises.", ("train/loss",)),
        Panel(
            "Training accuracy",
            "Its lead over test accuracy is what regularisation can win.",
            ("train/top1",),
        ),
    ),
    is_open=True,
)

PERTURBATION = Section(
    "Perturbation",
    (
        Panel(
            "Clean and perturbed loss",
            "On training images, at the clean and at the perturbed weights.",
            ("perturb/clean_loss", "perturb/perturbed_loss"),
        ),
        Panel(
            "Loss gap",
            "Perturbed less clean loss: the smaller, the flatter the minimum.",
            ("perturb/loss_gap",),
        ),
        Panel(
            "Strength",
            "σ of the noise, ρ of the step up the gradient; 0 while weights stay clean.",
            ("perturb/sigma", "perturb/rho"),
        ),
        Panel("Cost", "Share of an update that perturbing takes.", ("perturb/share",)),
        Panel("Cost by method", "Likewise, of finished runs.", ("perturb_share",), kind="bars"),
        Panel(
            "Cost in seconds",
            "Of an update: perturbing, and drawing noise ahead of it.",
            ("perturb/seconds", "perturb/noise_s"),
        ),
        Panel(
            "Hidden share",
            "Part of drawing noise that no update waited for; below 1 there is something to win.",
            ("perturb/noise_hidden",),
        ),
        Panel("Memory", "Bytes that the perturbation keeps.", ("perturb/noise_bytes",)),
        Panel(
            "Adaptation",
            "arwp and m-arwp; at 1 nothing adapts yet.",
            ("perturb/adaptation",),
        ),
    ),
    is_open=True,
)

TRAINING = Section(
    "Training",
    (
        Panel("Learning rate", "Of the last update.", ("train/lr",)),
        Panel("Gradient norm", "Before clipping.", ("train/grad_norm",)),
        Panel("Skipped updates", "Their gradient was not finite.", ("train/skipped_steps",)),
        Panel("Time of an update", "In seconds, on the slowest rank.", ("train/step_s",)),
        Panel("Images per second", "Over all ranks.", ("train/images_per_s",)),
        Panel(
            "Stragglers",
            "How much longer the slowest rank computes than the fastest, as a share of an update.",
            ("train/step_spread",),
        ),
        Panel("Model FLOPs utilisation", "Work over the peak of the device.", ("train/mfu",)),
        Panel("Work", "TFLOP/s of the model on one rank.", ("train/tflops",)),
        Panel("Memory", "Peak of a rank, in bytes.", ("train/memory_bytes",)),
        Panel("Time left", "In seconds.", ("train/eta_s",)),
        Panel("Seconds per update", "Median of finished runs.", ("step_s",), kind="bars"),
    ),
)

DATA = Section(
    "Data",
    (
        Panel("Data wait", "Share of an update: above 0.05, add workers.", ("data/wait_share",)),
        Panel("Data wait in seconds", "On the slowest rank.", ("data/wait_s",)),
        Panel("Bytes read", "Per second, over all ranks.", ("data/bytes_per_s",)),
        Panel(
            "Bad samples",
            "Could not be read, in training and in the last evaluation.",
            ("data/bad_samples", "eval/bad_samples"),
        ),
        Panel(
            "Cache hits",
            "Share of remote shards that were on the node already.",
            ("data/cache_hits",),
        ),
        Panel(
            "Cache evictions",
            "Many in the second epoch: the cache is smaller than the data.",
            ("data/cache_evictions",),
        ),
        Panel("Downloads", "Bytes per second.", ("data/download_bytes_per_s",)),
        Panel("Download retries", "The store or the network fails.", ("data/download_retries",)),
    ),
)

CHECKPOINTS = Section(
    "Checkpoints",
    (
        Panel("Time to save", "Seconds that training stood still.", ("checkpoint/save_s",)),
        Panel("Size", "In bytes.", ("checkpoint/bytes",)),
    ),
)

SECTIONS = (RESULTS, PERTURBATION, TRAINING, DATA, CHECKPOINTS)

IN_THE_REPORT = RESULTS.panels[:4]
"""Panels below the table of the report."""

COLUMNS_OF_RUNS = ("top1", "device_seconds", "step_s", "perturb_share")
"""Numbers of the summary that the list of runs shows."""

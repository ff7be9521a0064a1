"""The columns of each kind of record: one table, which sinks, dashboards and docs share.

Rates and times are means since the last record of that kind. None: the run does not have it. A
column may be missing in the files of an older version.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STEP = "global_step"
"""What W&B's rows call the number of updates done. Its own step counts rows."""


@dataclass(frozen=True)
class Column:
    """A number of a record."""

    key: str
    """Its key in ``metrics.jsonl``."""

    name: str
    """Its name in W&B, TensorBoard and trackio: ``<section>/<name>`` of letters, digits and ``_``,
    unique without regard to case."""

    unit: str
    """Such as ``s``, ``bytes``, ``%``, ``share`` (in [0, 1]); empty for a number without one."""

    meaning: str


TRAIN = (
    Column("epoch", "train/epoch", "epochs", "Epochs done."),
    Column(
        "samples",
        "train/samples",
        "images",
        "Training images of all updates so far, clean and perturbed, over all ranks.",
    ),
    Column(
        "loss",
        "train/loss",
        "nats",
        "Training loss that the method minimises: clean and perturbed losses with their weights.",
    ),
    Column(
        "top1",
        "train/top1",
        "%",
        "Accuracy on the training labels, at the clean weights if the method passes there. With "
        "Mixup or CutMix, a predicted class counts as its share of the image, so 100 is out of "
        "reach.",
    ),
    Column("lr", "train/lr", "", "Learning rate of the last step."),
    Column(
        "grad_norm",
        "train/grad_norm",
        "",
        "Norm of the gradient of the last update, averaged over passes and ranks, before clipping. "
        "None where DeepSpeed was told not to compute it.",
    ),
    Column("step_s", "train/step_s", "s", "Time of one update, on the slowest rank."),
    Column(
        "step_spread",
        "train/step_spread",
        "share",
        "How much longer the slowest rank takes for its forward passes and perturbing than the "
        "fastest, as a share of an update: backward passes are left out, because ranks wait for "
        "each other there. None on one rank, and at ZeRO stage 3, where they always do.",
    ),
    Column("images_per_s", "train/images_per_s", "images/s", "Training images, over all ranks."),
    Column(
        "tflops",
        "train/tflops",
        "TFLOP/s",
        "Matrix products, convolutions and attention of all forward and backward passes, sam's "
        "first ones too, in 10¹² operations per s; mean over ranks. What a network computes "
        "again in its backward pass counts again. None for a network in which they cannot be "
        "counted.",
    ),
    Column(
        "mfu",
        "train/mfu",
        "share",
        "`train/tflops` over the peak of the device in bf16. None in fp32, and for a device whose "
        "peak is not known.",
    ),
    Column(
        "memory_bytes",
        "train/memory_bytes",
        "bytes",
        "Peak memory of a rank: of its GPU, or of its process on a CPU.",
    ),
    Column(
        "skipped_steps",
        "train/skipped_steps",
        "updates",
        "Updates skipped since the run began, because the gradient was not finite.",
    ),
    Column("eta_s", "train/eta_s", "s", "Time left."),
    Column(
        "data_wait_s",
        "data/wait_s",
        "s",
        "Part of an update in which the rank waited for data, on the slowest rank.",
    ),
    Column("data_wait_share", "data/wait_share", "share", "`data/wait_s` over `train/step_s`."),
    Column("bytes_per_s", "data/bytes_per_s", "bytes/s", "Samples read, over all ranks."),
    Column(
        "cache_hits",
        "data/cache_hits",
        "share",
        "Remote shards that were in the cache already. None without a cache.",
    ),
    Column(
        "cache_evictions",
        "data/cache_evictions",
        "shards",
        "Removed from the cache to make room, over all ranks, since the last record.",
    ),
    Column(
        "download_bytes_per_s",
        "data/download_bytes_per_s",
        "bytes/s",
        "Remote shards downloaded, over all ranks.",
    ),
    Column(
        "download_retries",
        "data/download_retries",
        "downloads",
        "Downloads tried again, over all ranks, since the last record.",
    ),
    Column(
        "bad_samples",
        "data/bad_samples",
        "samples",
        "Training samples that could not be read, since the run began.",
    ),
    Column(
        "sigma",
        "perturb/sigma",
        "",
        "Standard deviation of the noise at the last step, relative to `method.scale`; 0 for "
        "methods without noise, and where the weights stay clean.",
    ),
    Column(
        "rho",
        "perturb/rho",
        "",
        "Length of the step up the gradient at the last step; 0 for methods without one, and where "
        "the weights stay clean.",
    ),
    Column(
        "clean_loss",
        "perturb/clean_loss",
        "nats",
        "Mean training loss of a sample in the passes at clean weights, such as the first ones of "
        "sam and those without perturbation. None if there were none.",
    ),
    Column(
        "perturbed_loss",
        "perturb/perturbed_loss",
        "nats",
        "Mean training loss of a sample in the passes at perturbed weights. None if there were "
        "none.",
    ),
    Column(
        "loss_gap",
        "perturb/loss_gap",
        "nats",
        "`perturb/perturbed_loss` less `perturb/clean_loss`: the smaller, the flatter the minimum. "
        "In sam of the same samples, in m-rwp of halves of a batch. None without both.",
    ),
    Column(
        "perturb_s",
        "perturb/seconds",
        "s",
        "Part of an update that perturbing takes, on the slowest rank.",
    ),
    Column("perturb_share", "perturb/share", "share", "`perturb/seconds` over `train/step_s`."),
    Column("noise_s", "perturb/noise_s", "s", "Time of drawing noise ahead, for one update."),
    Column(
        "noise_hidden",
        "perturb/noise_hidden",
        "share",
        "Part of `perturb/noise_s` that no step waited for. None if nothing is drawn ahead.",
    ),
    Column(
        "noise_bytes",
        "perturb/noise_bytes",
        "bytes",
        "Memory that the perturbation keeps, such as the buffer that noise is drawn into.",
    ),
    Column(
        "adaptation",
        "perturb/adaptation",
        "",
        "Mean of √(1+ηF) in arwp and m-arwp; 1 means that nothing adapts.",
    ),
)
"""What a run reports every ``tracking.log_every`` steps, beside ``step`` and ``total_steps``."""

EVAL = (
    Column("epoch", "eval/epoch", "epochs", "Epochs done."),
    Column(
        "samples",
        "eval/samples",
        "images",
        "Training images of all updates so far, clean and perturbed, over all ranks.",
    ),
    Column(
        "train_s",
        "eval/train_s",
        "s",
        "Time of the updates so far, of all attempts. Evaluations, checkpoints and starts are not "
        "counted, nor are updates that an attempt lost because it ended after its last "
        "checkpoint.",
    ),
    Column(
        "device_seconds",
        "eval/device_seconds",
        "s",
        "`eval/train_s` times the number of ranks that took the updates.",
    ),
    Column(
        "wall_s",
        "eval/wall_s",
        "s",
        "Wall-clock time from the first update to the beginning of this evaluation: "
        "`eval/train_s`, and earlier evaluations and checkpoints. Between attempts it stands "
        "still.",
    ),
    Column(
        "loss",
        "eval/loss",
        "nats",
        "Mean cross-entropy of the labels, which is their negative log-likelihood (NLL).",
    ),
    Column("top1", "eval/top1", "%", "Accuracy."),
    Column(
        "top5", "eval/top5", "%", "Samples whose label is among the five most probable classes."
    ),
    Column("ece", "eval/ece", "%", "Expected calibration error, from 15 bins of equal width."),
    Column(
        "trained_top1",
        "eval/trained_top1",
        "%",
        "Accuracy of the trained weights, where an average of them is the result. None otherwise.",
    ),
    Column("trained_loss", "eval/trained_loss", "nats", "Their loss."),
    Column(
        "average_top1",
        "eval/average_top1",
        "%",
        "Accuracy of the average of the weights, where the trained ones are the result. None "
        "otherwise.",
    ),
    Column("average_loss", "eval/average_loss", "nats", "Its loss."),
    Column("num_samples", "eval/num_samples", "samples", "Samples that were read."),
    Column(
        "bad_samples",
        "eval/bad_samples",
        "samples",
        "Samples that could not be read, and were left out.",
    ),
)
"""What an evaluation on the whole evaluation set gave, beside ``step``."""

CHECKPOINT = (
    Column(
        "save_s",
        "checkpoint/save_s",
        "s",
        "Time of gathering and writing the checkpoint, in which training stands still.",
    ),
    Column("bytes", "checkpoint/bytes", "bytes", "Size of its file."),
)
"""What saving a checkpoint took, beside ``step``."""

COLUMNS = {"train": TRAIN, "eval": EVAL, "checkpoint": CHECKPOINT}
"""The columns by the kind of record."""


def named(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record's numbers by the names that W&B shows, without those that are None.

    What is not a column, such as a metric of your own, is ``<kind>/<key>``.
    """
    names = {column.key: column.name for column in COLUMNS.get(kind, ())}
    return {
        names.get(key, f"{kind}/{key}"): value
        for key, value in record.items()
        if value is not None and key not in ("kind", "time", "step", "total_steps")
    }

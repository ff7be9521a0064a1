"""The columns of the two kinds of record. All sinks get the same ones.

Times are in seconds, shares in [0, 1], accuracies in percent. Rates and times are means since the
last record of that kind. None: the run does not have it. A column may be missing in the files of
an older version.
"""

from typing import TypedDict


class TrainRecord(TypedDict):
    """What a run reports every ``tracking.log_every`` steps."""

    step: int
    """Updates done."""

    total_steps: int
    """Updates of the whole run."""

    epoch: float
    """Epochs done."""

    loss: float
    """Training loss that the method minimises: clean and perturbed losses with their weights."""

    top1: float
    """Accuracy on the training labels, at the clean weights if the method passes there."""

    lr: float
    """Learning rate of the last step."""

    sigma: float
    """Standard deviation of the noise at the last step, relative to ``method.scale``; 0 for methods
    without noise, and where the weights stay clean."""

    rho: float
    """Length of the step up the gradient at the last step; 0 for methods without one, and where the
    weights stay clean."""

    step_s: float
    """Time of one update, on the slowest rank."""

    images_per_s: float
    """Training images, over all ranks."""

    data_wait_s: float
    """Part of ``step_s`` in which the rank waited for data, on the slowest rank."""

    data_wait_share: float
    """``data_wait_s`` over ``step_s``."""

    bytes_per_s: float
    """Bytes of samples read, over all ranks."""

    cache_hits: float | None
    """Share of remote shards that were in the cache already; None without a cache."""

    cache_evictions: int
    """Shards removed from the cache to make room, over all ranks, since the last record."""

    download_bytes_per_s: float
    """Bytes of remote shards that were downloaded, over all ranks."""

    download_retries: int
    """Downloads that were tried again, over all ranks, since the last record."""

    bad_samples: int
    """Samples that could not be read, since the run began."""

    perturb_s: float
    """Part of ``step_s`` that perturbing takes, on the slowest rank."""

    perturb_share: float
    """``perturb_s`` over ``step_s``."""

    noise_s: float
    """Time of drawing noise ahead, for one update."""

    noise_hidden: float | None
    """Share of ``noise_s`` that no step waited for; None if nothing is drawn ahead."""

    noise_bytes: int
    """Memory that the perturbation keeps, such as the buffer that noise is drawn into."""

    memory_bytes: int
    """Peak memory of a rank: of its GPU, or of its process on a CPU."""

    skipped_steps: int
    """Updates skipped since the run began, because the gradient was not finite."""

    adaptation: float | None
    """Mean of sqrt(1 + eta F) in arwp and m-arwp; 1 means that nothing adapts."""

    eta_s: float
    """Time left."""


class EvalRecord(TypedDict):
    """What an evaluation on the whole evaluation set gave."""

    step: int
    """Updates done."""

    epoch: float
    """Epochs done."""

    samples: int
    """Training samples of all updates so far, clean and perturbed ones, over all ranks."""

    train_s: float
    """Seconds of the updates so far, of all attempts. Evaluations, checkpoints and starts are not
    counted, nor are updates that an attempt lost, because it ended after its last checkpoint."""

    device_seconds: float
    """``train_s`` times the number of ranks that took the updates."""

    wall_s: float
    """Wall-clock seconds from the first update to the beginning of this evaluation: ``train_s``,
    and earlier evaluations and checkpoints. Between attempts it stands still."""

    loss: float
    """Mean cross-entropy of the labels, which is their negative log-likelihood (NLL)."""

    top1: float
    """Accuracy."""

    top5: float
    """Share of samples whose label is among the five most probable classes, in percent."""

    ece: float
    """Expected calibration error in percent, from 15 bins of equal width."""

    num_samples: int
    """Samples that were read."""

    bad_samples: int
    """Samples that could not be read, and were left out."""

"""The forecast as text for a terminal."""

from collections.abc import Iterator, Sequence

from rwp_dist.base.text import DASH, count, duration, percent, plural, size, table, whole
from rwp_dist.engine.sharding import zero_stage
from rwp_dist.perturb.methods import METHODS
from rwp_dist.plan.forecast import Cluster, Forecast, checkpoint_size
from rwp_dist.plan.hardware import CHECKPOINT_BYTES_PER_S
from rwp_dist.run.memory import TIGHT


def report(
    found: Sequence[Forecast], by_auto: Forecast, cluster: Cluster, price: float | None
) -> list[str]:
    """Lines: what is planned, a row of time for each method, a row of memory and data, notes.

    Args:
        found: one of each method.
        by_auto: the first of them with ``deepspeed.zero_stage=auto``.
        cluster: what is rented.
        price: of a GPU for an hour, in any currency; None: no column of costs.
    """
    settings = found[0].settings
    stored = checkpoint_size(settings)
    written_s = stored / CHECKPOINT_BYTES_PER_S
    return [
        f"{settings.model.name}, {max(settings.data.train_sizes)} pixels, {settings.precision}: "
        f"{whole(settings.batch.global_)} images an update{_updates(found[0].steps)} on "
        f"{plural(cluster.num_gpus, 'GPU')} "
        f"({cluster.gpu_name}, {plural(cluster.num_nodes, 'node')}, "
        f"{cluster.node_bytes_per_s * 8 / 1e9:g} Gbit/s each)",
        "",
        *table([_time_head(price), *(_time(f, cluster, price) for f in found)], num_left=1),
        "",
        *table([MEMORY_HEAD, *(_memory(f, cluster) for f in found)], num_left=1),
        "",
        f"A checkpoint has {size(stored)}: {duration(written_s)} to a disk of "
        f"{size(CHECKPOINT_BYTES_PER_S)}/s.",
        *_notes(found, by_auto, cluster),
        "Estimated, within tens of percent on GPUs: docs/scale.md has the model and its limits.",
    ]


def _updates(steps: int | None) -> str:
    return f", {whole(steps)} updates" if steps else ""


def _time_head(price: float | None) -> list[str]:
    cost = [] if price is None else ["cost"]
    return [
        *("method", "ms/step", "images/s", "network"),
        *("hours", "GPU-hours", *cost, "bound by"),
    ]


def _time(found: Forecast, cluster: Cluster, price: float | None) -> list[str]:
    gpu_hours = None if found.hours is None else found.hours * cluster.num_gpus
    cost = [] if price is None else [DASH if gpu_hours is None else whole(gpu_hours * price)]
    return [
        found.method,
        f"{found.step_s * 1e3:.1f}",
        whole(found.images_per_s),
        percent(found.step.wait_s / found.step_s),
        _hours(found.hours),
        _hours(gpu_hours),
        *cost,
        found.bound_by,
    ]


def _hours(value: float | None) -> str:
    return f"{value:.2f}" if value is not None and value < 9.995 else count(value)


MEMORY_HEAD = ["method", "images in a pass", "engine", "memory/GPU", "read/node"]


def _memory(found: Forecast, cluster: Cluster) -> list[str]:
    return [
        found.method,
        f"{found.split.micro_batches} x {found.split.size}",
        found.engine,
        size(found.memory_bytes),
        f"{whole(_need(found, cluster))} images/s",
    ]


def _need(found: Forecast, cluster: Cluster) -> float:
    """Images/s that a full node must read, or its GPUs wait."""
    return found.settings.batch.global_ * cluster.full_node / found.step.total_s


def _notes(found: Sequence[Forecast], by_auto: Forecast, cluster: Cluster) -> Iterator[str]:
    first, memory = found[0], cluster.gpu.memory_bytes
    yield "Each method has as many images in an update; a variant of the file may have others."
    large = [f.method for f in found if f.memory_bytes > TIGHT * memory]
    if large:
        names = ", ".join(large)
        yield f"{names}: {size(memory)} of a GPU may be too little; lower batch.per_rank."
    if by_auto.step_s < 0.99 * first.step_s and by_auto.fits:
        yield (
            f"deepspeed.zero_stage=auto would take {by_auto.engine}, and {first.method} "
            f"{by_auto.step_s * 1e3:.1f} ms in place of {first.step_s * 1e3:.1f}."
        )
    if any(f.bound_by == "host" for f in found):
        yield (
            f"Passes of {plural(first.split.size, 'image')} leave GPUs waiting for the host: take "
            "fewer GPUs, or a larger batch.global."
        )
    missing = [name for name in METHODS if name not in [f.method for f in found]]
    if missing:
        yield f"{', '.join(missing)} cannot train at stage 3 of ZeRO."
    if zero_stage(first.settings) in (1, 2):
        yield "last-sam: that ZeRO gathers its gradient parameter by parameter is left out."
    if len(first.settings.data.train_sizes) > 1:
        yield "Steps of smaller images (data.sizes) take less; all is computed for the largest."
    if first.settings.loss.teacher is not None:
        yield "The teacher's forward passes are not in the model."
    if first.settings.run.compile:
        yield "run.compile is not in the model."
    if first.steps is None:
        yield (
            f"Hours depend on the number of training images, and {first.settings.data.train} is "
            "not here: give --images N (ImageNet has 1281167)."
        )
    yield _reading(found, cluster)


def _reading(found: Sequence[Forecast], cluster: Cluster) -> str:
    most = max(_need(f, cluster) for f in found)
    if cluster.node_images_per_s is None:
        return (
            "Whether a node can read so much: run `rwp-dist doctor CONFIG` there, and give its "
            "images/s with --feed. One core reads about 1,000 images/s of ImageNet "
            "(docs/performance.md)."
        )
    if any(f.bound_by == "data" for f in found):
        return (
            f"A node reads {whole(cluster.node_images_per_s)} images/s, and that keeps GPUs "
            "waiting: more cores, smaller images (`rwp-dist shards write --resize`) or "
            "data.interpolation=fast."
        )
    share = percent(most / cluster.node_images_per_s)
    return f"Reading takes at most {share} of what a node can read."

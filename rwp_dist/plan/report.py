"""The forecast as text for a terminal."""

from collections.abc import Sequence

from rwp_dist.base.text import DASH, count, duration, percent, plural, size, table, whole
from rwp_dist.plan.forecast import Cluster, Forecast, checkpoint_size
from rwp_dist.plan.hardware import CHECKPOINT_BYTES_PER_S
from rwp_dist.run.memory import TIGHT


def report(found: Sequence[Forecast], cluster: Cluster, price: float | None) -> list[str]:
    """Lines: what is planned, a row of time for each method, a row of memory and data, notes.

    Args:
        found: one of each method.
        cluster: what is rented.
        price: of a GPU for an hour, in any currency; None: no column of costs.
    """
    settings = found[0].settings
    stored = checkpoint_size(settings)
    written_s = stored / CHECKPOINT_BYTES_PER_S
    return [
        f"{settings.model.name}, {settings.data.image_size} pixels, {settings.precision}: "
        f"{whole(settings.batch.global_)} images an update on {plural(cluster.num_gpus, 'GPU')} "
        f"({cluster.gpu_name}, {plural(cluster.num_nodes, 'node')}, "
        f"{cluster.node_bytes_per_s * 8 / 1e9:g} Gbit/s each)",
        "",
        *table([_time_head(price), *(_time(f, cluster, price) for f in found)], num_left=1),
        "",
        *table([MEMORY_HEAD, *(_memory(f, cluster) for f in found)], num_left=1),
        "",
        f"A checkpoint has {size(stored)}: {duration(written_s)} to a disk of "
        f"{size(CHECKPOINT_BYTES_PER_S)}/s.",
        *_notes(found, cluster),
        "Estimated, within tens of percent on GPUs: docs/scale.md has the model and its limits.",
    ]


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
        f"{whole(found.images_per_s / cluster.num_nodes)} images/s",
    ]


def _notes(found: Sequence[Forecast], cluster: Cluster) -> list[str]:
    settings, memory = found[0].settings, cluster.gpu.memory_bytes
    notes = []
    large = [f.method for f in found if f.memory_bytes > TIGHT * memory]
    if large:
        notes.append(
            f"{', '.join(large)}: {size(memory)} of a GPU may be too little; lower batch.per_rank."
        )
    if found[0].hours is None:
        notes.append(
            f"Hours depend on the number of images, and {settings.data.train} is not here: give "
            "schedule.steps=N."
        )
    most = max(f.images_per_s for f in found) / cluster.num_nodes
    if cluster.node_images_per_s is None:
        notes.append(
            "Whether a node can read so much: run `rwp-dist doctor CONFIG` there, and give its "
            "images/s with --feed."
        )
    elif any(f.bound_by == "data" for f in found):
        notes.append(
            f"A node reads {whole(cluster.node_images_per_s)} images/s, and that keeps GPUs "
            "waiting: more cores, smaller images (`rwp-dist shards write --resize`) or "
            "data.interpolation=fast."
        )
    else:
        share = most / cluster.node_images_per_s
        notes.append(f"Reading takes at most {percent(share)} of what a node can read.")
    return notes

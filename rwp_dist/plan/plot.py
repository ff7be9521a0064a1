"""The picture: how far more GPUs help each method, and what a network does to SAM."""

import io
from collections.abc import Sequence
from dataclasses import replace

from rwp_dist.base.fonts import fonts_for
from rwp_dist.compare.plot import GREY, STYLES, WIDTH
from rwp_dist.plan.forecast import Cluster, Forecast, step_of
from rwp_dist.plan.model import StepTime
from rwp_dist.run.flops import Pass

NUM_GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
DRAWN = ("sgd", "m-rwp", "sam")
"""Methods of the left panel; the others take as long as one of them."""
LINKS = {
    25e9: ("#8C8C8C", "o"),
    100e9: ("#E69F00", "s"),
    400e9: ("#56B4E9", "^"),
    3200e9: ("#0072B2", "D"),
}
"""Bits/s of a node in the right panel, and their style."""


def picture(found: Sequence[Forecast], cluster: Cluster, profile: Pass) -> bytes:
    """Two panels over the number of GPUs, each with as many images as in the plan, as PNG.

    Left: images/s of one GPU. Right: a step of sam over one of m-rwp.
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps state for the whole process

    by_name = {one.method: one for one in found}

    def step(method: str, gpus: int, bits_per_s: float) -> StepTime:
        one = by_name[method]
        other = replace(cluster, num_gpus=gpus, node_bytes_per_s=bits_per_s / 8)
        return step_of(one.settings, one.split, other, profile)

    with fonts_for([found[0].settings.model.name]):
        figure = Figure(figsize=(WIDTH, 3.6), dpi=200, layout="constrained")
        left, right = figure.subplots(1, 2)
        own = cluster.node_bytes_per_s * 8
        for method in DRAWN:
            colour, marker = STYLES[method]
            split = by_name[method].split
            images = split.micro_batches * split.size
            rates = [images / step(method, gpus, own).total_s for gpus in NUM_GPUS]
            style = {"color": colour, "marker": marker, "markersize": 5}
            left.plot(NUM_GPUS, rates, label=method, **style)
        left.set(ylabel="images/s of a GPU", ylim=(0, None))
        left.set_title(f"{own / 1e9:g} Gbit/s a node", loc="left", fontsize="medium")
        for bits, (colour, marker) in LINKS.items():
            ratios = [
                step("sam", gpus, bits).total_s / step("m-rwp", gpus, bits).total_s
                for gpus in NUM_GPUS
            ]
            style = {"color": colour, "marker": marker, "markersize": 5}
            right.plot(NUM_GPUS, ratios, label=f"{bits / 1e9:,g} Gbit/s a node", **style)
        right.set(ylabel="step of sam / step of m-rwp", ylim=(0, 2.1))
        right.set_title("What SAM's second pass costs", loc="left", fontsize="medium")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks(NUM_GPUS, [f"{gpus:,}" for gpus in NUM_GPUS])
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
            axes.set_xlabel(f"{cluster.gpu_name} GPUs, {cluster.gpu.per_node} a node")
            axes.grid(color="#E6E6E6", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize="small", loc="lower left")
        first = found[0]
        images = first.split.micro_batches * first.split.size
        title = f"{first.settings.model.name}, {images} images a GPU in an update, {first.engine}"
        figure.suptitle(title, fontsize="medium", color=GREY, x=0.01, ha="left")
        file = io.BytesIO()
        figure.savefig(file, format="png")
    return file.getvalue()

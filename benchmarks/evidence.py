"""Many ways to perturb weights on few real images: which help, how much, how forgiving they are.

    python benchmarks/evidence.py tune --data mnist --network cnn
    python benchmarks/evidence.py final --data mnist --network cnn
    python benchmarks/evidence.py report --data mnist --network cnn
    python benchmarks/evidence.py defaults --data mnist --network cnn

``tune`` scores each variant (benchmarks/study/variants.py) at strengths of a factor 1.6 apart, on
images that are neither for training nor for testing, and goes on until the best is not at an edge.
``final`` trains each at its best strength with fresh seeds and scores it on the test images.
Each seed draws its own training images. ``report`` prints the table and draws the plateaus.
``defaults`` compares the default sigmas with the tuned ones, by ten or twenty fresh seeds. All
scores are kept in one file, so that a stopped command goes on. Needs ``rwp-dist[demo]``.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import click
from matplotlib.figure import Figure
from study.data import file_of_scores, split
from study.networks import build
from study.search import search
from study.training import train
from study.variants import VARIANTS, Variant

from rwp_dist.compare import STYLES, estimate
from rwp_dist.perturb import METHODS

PLATEAUS = ("sam", "last-sam", "rwp", "m-rwp", "m-arwp")
"""Drawn by ``report``."""
NOISY = ("rwp", "m-rwp", "m-arwp")
"""Compared at their default sigma by ``defaults``."""

FACTOR = 1.6
TUNING_SEEDS = range(3)
FINAL_SEEDS = range(1000, 1010)
DEFAULT_SEEDS = range(1000, 1020)
"""Of ``defaults`` where the default is not the tuned strength, whose difference is small."""
SIZES = {
    ("mnist", "cnn"): (100, 300),
    ("mnist", "vit"): (1000, 600),
    ("fashion", "cnn"): (1000, 800),
    ("fashion", "vit"): (1000, 600),
}
"""Training images, and updates of sgd."""


class Scores:
    """Top-1 by (variant, strength, seed), kept in a file of one line each."""

    def __init__(self, data: str, network: str) -> None:
        self.data, self.network = data, network
        decides = SIZES[data, network], *build(network, data, seed=0)
        self.path = file_of_scores(f"{data}-{network}", *decides)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.known = {tuple(row[:3]): row[3] for row in map(json.loads, lines)}

    def top1(self, variant: Variant, strength: float, seed: int) -> float:
        """Known or trained now."""
        strength = float(f"{strength:.4g}")
        key = (variant.name, strength, seed)
        if key not in self.known:
            num_train, num_steps = SIZES[self.data, self.network]
            tuning = seed in TUNING_SEEDS
            images = split(self.data, seed, tuning=tuning, num_train=num_train)
            self.known[key] = train(
                variant.rule,
                strength,
                *build(self.network, self.data, seed),
                images,
                seed=seed,
                num_steps=round(num_steps * variant.steps),
                average=variant.average,
            ).top1
            with self.path.open("a") as file:
                print(json.dumps([*key, self.known[key]]), file=file)
        return self.known[key]

    def tuned(self, variant: Variant) -> dict[float, float]:
        """Mean score of each strength that was tried in tuning."""
        tops = defaultdict(list)
        for (name, strength, seed), top1 in self.known.items():
            if name == variant.name and seed in TUNING_SEEDS:
                tops[strength].append(top1)
        complete = {s: v for s, v in sorted(tops.items()) if len(v) == len(TUNING_SEEDS)}
        return {strength: statistics.mean(values) for strength, values in complete.items()}

    def best(self, variant: Variant) -> float:
        """The strength that tuning found.

        Raises:
            click.ClickException: it was not tuned.
        """
        tuned = self.tuned(variant)
        if not tuned:
            raise click.ClickException(f"{variant.name}: run `tune` for it first")
        return max(tuned, key=lambda strength: tuned[strength])

    def final(self, variant: Variant) -> dict[int, float]:
        """Score of each final seed at the best strength, of those that are trained."""
        best = self.best(variant)
        return {
            seed: self.known[variant.name, best, seed]
            for seed in FINAL_SEEDS
            if (variant.name, best, seed) in self.known
        }


def tune(scores: Scores, variant: Variant) -> None:
    """Try strengths until the best one has a worse one on each side; and the default, if any."""

    def score(strength: float) -> float:
        return statistics.mean(scores.top1(variant, strength, seed) for seed in TUNING_SEEDS)

    search(score, variant.centre, FACTOR)
    if variant.name in NOISY:
        score(METHODS[variant.name].default_strength)


def report(scores: Scores) -> str:
    """All variants by their mean, with what an update costs and paired differences."""
    final = {name: scores.final(v) for name, v in VARIANTS.items() if scores.tuned(v)}
    final = {name: tops for name, tops in final.items() if len(tops) > 1}
    rows = []
    for name, tops in sorted(final.items(), key=lambda row: -statistics.mean(row[1].values())):
        v = VARIANTS[name]
        rows.append(
            [
                name,
                f"{scores.best(v):g}" if v.centre else "",
                f"{v.passes * v.steps:g}",
                f"{v.samples * v.steps:g}",
                mean_text(tops.values()),
                *against(name, final, "sgd"),
                *against(name, final, "sam"),
                str(len(tops)),
            ]
        )
    heads = ["", "strength", "time", "work", "top-1 %", "- sgd", "95 %", "- sam", "95 %", "n"]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * 10, *rows))


def defaults(scores: Scores) -> str:
    """What no tuning costs: scores at the default and at the tuned strength, seed by seed."""
    lines = []
    for name in NOISY:
        v = VARIANTS[name]
        strength = METHODS[name].default_strength
        best = scores.best(v)
        seeds = FINAL_SEEDS if strength == best else DEFAULT_SEEDS
        default = {seed: scores.top1(v, strength, seed) for seed in seeds}
        tuned = {seed: scores.top1(v, best, seed) for seed in seeds}
        final = {"default": default, "tuned": tuned}
        lines.append(
            f"{name:<7} {strength:g}: {mean_text(default.values())}, "
            f"tuned {best:g}: {mean_text(tuned.values())}, "
            f"difference {' '.join(against('default', final, 'tuned'))}"
        )
    return "\n".join(lines)


def draw_plateaus(scores: Scores, path: Path) -> None:
    """Draw the tuning scores over the strength, in multiples of the best: wide is forgiving."""
    figure = Figure(figsize=(8, 4), dpi=200, layout="constrained")
    axes = figure.subplots()
    plain = scores.tuned(VARIANTS["sgd"])[scores.best(VARIANTS["sgd"])]
    axes.axhline(plain, color="black", linewidth=1)
    axes.annotate(
        "sgd", (0.995, plain), xycoords=("axes fraction", "data"), ha="right", va="bottom"
    )
    for name in PLATEAUS:
        colour, marker = STYLES[name]
        tuned = scores.tuned(VARIANTS[name])
        best = scores.best(VARIANTS[name])
        multiples = [strength / best for strength in tuned]
        axes.plot(multiples, list(tuned.values()), color=colour, marker=marker, label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="strength (sigma or rho) over the best one", ylabel="top-1 (%)")
    axes.set_ylim(bottom=plain - 3)
    axes.grid(color="#E6E6E6")
    axes.legend(frameon=False)
    figure.savefig(path)


def against(name: str, final: dict[str, dict[int, float]], other: str) -> list[str]:
    """Mean difference from another variant over the seeds of both, and its interval."""
    mine, theirs = final[name], final.get(other, {})
    found = estimate([mine[seed] - theirs[seed] for seed in mine if seed in theirs])
    if found is None or found.low is None:
        return ["", ""]
    return [f"{found.mean:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}"]


def mean_text(values: Collection[float]) -> str:
    """``90.12 ± 0.80``."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


@click.command()
@click.argument("what", type=click.Choice(("tune", "final", "report", "defaults")))
@click.option("--data", type=click.Choice(("mnist", "fashion")), default="mnist", show_default=True)
@click.option("--network", type=click.Choice(("cnn", "vit")), default="cnn", show_default=True)
@click.option("--variants", help="Some of them: beginnings of names, semicolons between.")
def main(what: str, data: str, network: str, variants: str | None) -> None:
    """Tune, train, report, or compare defaults with what tuning found."""
    scores = Scores(data, network)
    chosen = [
        v
        for v in VARIANTS.values()
        if variants is None or any(v.name.startswith(prefix) for prefix in variants.split(";"))
    ]
    for variant in chosen:
        if what == "tune":
            tune(scores, variant)
            tops = {s: round(top1, 2) for s, top1 in scores.tuned(variant).items()}
            print(variant.name, tops, flush=True)
        elif what == "final" and scores.tuned(variant):
            best = scores.best(variant)
            final = [scores.top1(variant, best, seed) for seed in FINAL_SEEDS]
            print(variant.name, f"{best:g}", mean_text(final), flush=True)
    if what == "report":
        print(report(scores))
        draw_plateaus(scores, scores.path.with_suffix(".png"))
    elif what == "defaults":
        print(defaults(scores))


if __name__ == "__main__":
    main()

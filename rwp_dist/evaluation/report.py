"""Numbers of an evaluation on a terminal."""

from rwp_dist.base.text import DASH, table
from rwp_dist.evaluation.asked import Asked
from rwp_dist.evaluation.corruptions import CORRUPTIONS, STRENGTHS
from rwp_dist.evaluation.measure import Numbers
from rwp_dist.evaluation.other_data import OtherData

DECIMALS = {"top1": 2, "nll": 4, "ece": 2}


def line(numbers: Numbers, num_samples: int, other: OtherData | None = None) -> str:
    """The clean network: ``top-1 96.11 %  top-5 99.75 %  NLL 0.1432  ECE 1.20 %  (797 images)``.

    On another data set, also its key, and how many classes are possible answers.
    """
    told = (
        f"top-1 {numbers['top1']:.2f} %  top-5 {numbers['top5']:.2f} %  "
        f"NLL {numbers['nll']:.4f}  ECE {numbers['ece']:.2f} %  ({num_samples:,} images"
    )
    if other is None:
        return f"{told})"
    choices, outputs = len(other.choices), other.num_outputs
    among = "" if choices == outputs else f" of {choices:,} classes"
    without = f", {other.num_left_out:,} without a right class" if other.num_left_out else ""
    return f"{other.key}: {told}{among}{without})"


def beside(numbers: Numbers) -> list[str]:
    """Lines for the weights that are not the run's result, if it has an average of them."""
    return [
        f"  {title} weights: top-1 {numbers[f'{name}.top1']:.2f} %  "
        f"NLL {numbers[f'{name}.nll']:.4f}  ECE {numbers[f'{name}.ece']:.2f} %"
        for name, title in (("trained", "trained"), ("average", "averaged"))
        if f"{name}.top1" in numbers
    ]


def tables(numbers: Numbers, asked: Asked) -> list[str]:
    """Lines of a table for the corruptions and one for the weights, where they are asked for.

    Args:
        numbers: with the means of the corruptions.
        asked: the conditions.
    """
    lines: list[str] = []
    if asked.corruptions:
        head = ["corruption", "top-1 % at 1", *map(str, STRENGTHS[1:]), "mean", "NLL", "ECE %"]
        prefixes = {name: f"corruption.{name}" for name in asked.corruptions}
        if len(prefixes) == len(CORRUPTIONS):
            prefixes["all"] = "corruptions"
        rows = [
            [
                name,
                *(_cell(numbers, f"{prefix}.{strength}", "top1") for strength in STRENGTHS),
                *_cells(numbers, prefix),
            ]
            for name, prefix in prefixes.items()
        ]
        lines += ["", *table([head, *rows], num_left=1)]
    if asked.weight_noise or asked.bits:
        draws = f" ({asked.draws} draws)" if asked.weight_noise else ""
        head = [f"weights{draws}", "top-1 %", "NLL", "ECE %"]
        noisy = [(f"noise {n:g}", f"weight_noise.{n:g}") for n in asked.weight_noise]
        coarse = [(f"{bits} bits", f"bits.{bits}") for bits in asked.bits]
        rows = [[name, *_cells(numbers, prefix)] for name, prefix in (*noisy, *coarse)]
        lines += ["", *table([head, *rows], num_left=1)]
    return [*lines, ""] if lines else []


def _cells(numbers: Numbers, prefix: str) -> list[str]:
    return [_cell(numbers, prefix, metric) for metric in DECIMALS]


def _cell(numbers: Numbers, prefix: str, metric: str) -> str:
    """A number, with its deviation over draws if there is one."""
    value = numbers.get(f"{prefix}.{metric}")
    if value is None:
        return DASH
    deviation = numbers.get(f"{prefix}.{metric}_std")
    places = DECIMALS[metric]
    return f"{value:.{places}f}" + (f" ± {deviation:.{places}f}" if deviation is not None else "")

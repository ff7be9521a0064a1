"""How the strength of a perturbation changes along a run. Imports no torch."""

import math


def increasing(strength: float, increase: float, step: float, total_steps: float) -> float:
    """``strength (1 + increase (1 - cos(pi t / T)) / 2)``: RWP's schedule (Li et al., TMLR 2024).

    It grows from ``strength`` to ``strength (1 + increase)``.
    """
    return strength * (1.0 + increase * (1.0 - math.cos(math.pi * step / total_steps)) / 2.0)

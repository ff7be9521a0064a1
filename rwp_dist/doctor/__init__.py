"""What on this machine would stop a run, and the cure. Imports no torch."""

from rwp_dist.doctor.examine import examine
from rwp_dist.doctor.finding import Finding, worst

__all__ = ["Finding", "examine", "worst"]

"""``rwp-dist doctor``: examine, report, and end with a code that says how it went."""

import os
import sys
import threading
from collections.abc import Iterable
from contextlib import redirect_stdout

import click

from rwp_dist.config import Settings
from rwp_dist.doctor import report
from rwp_dist.doctor.examine import examine
from rwp_dist.doctor.finding import Finding, worst
from rwp_dist.process import torchrun
from rwp_dist.process.stages import stage


def run(settings: Settings | None, *, quick: bool, as_json: bool) -> None:
    """Examine this machine, or those of all ranks; report; exit with 1 if there is a problem.

    Args:
        settings: of the run that is to start; None: general checks only.
        quick: only this machine's own health, each node for itself.
        as_json: print one JSON document.
    """
    together = torchrun.world_size() > 1 and not quick
    silent = torchrun.rank() > 0 if together else torchrun.local_rank() > 0
    out = sys.stdout
    # What libraries print is not part of the report.
    with redirect_stdout(sys.stderr), stage("examining this machine", at_once=not quick):
        if together:
            from rwp_dist.doctor.ranks import examine_together  # imports torch

            coming: Iterable[Finding] = examine_together(settings)
        else:
            coming = examine(settings, quick=quick)
        if silent:
            findings = list(coming)
        elif as_json:
            findings = list(coming)
            click.echo(report.as_json(findings, torchrun.node_name()), file=out)
        elif quick:
            findings = report.show_node(coming, torchrun.node_name(), out)
        else:
            findings = report.show(coming, out)
    code = int(worst(findings) == "problem")
    if together or any(thread.name.startswith("doctor-") for thread in threading.enumerate()):
        # A check may still hang and other ranks may be gone: end without waiting for either.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    click.get_current_context().exit(code)

"""``rwp-dist doctor``: examine, report, and end with a code that says how it went."""

import os
import sys
import threading

import click

from rwp_dist.config import Settings
from rwp_dist.doctor import report
from rwp_dist.doctor.case import node_name
from rwp_dist.doctor.examine import examine
from rwp_dist.doctor.finding import worst
from rwp_dist.doctor.together import examine_together
from rwp_dist.process import torchrun as launched


def run(settings: Settings | None, *, quick: bool, as_json: bool) -> None:
    """Examine this machine, or those of all ranks; report; exit with 1 if there is a problem."""
    together = launched.world_size() > 1 and not quick
    another_speaks = launched.rank() > 0 if together else launched.local_rank() > 0
    node = node_name()
    with report.own_stdout() as out:
        coming = examine_together(settings) if together else examine(settings, quick=quick)
        if another_speaks:
            findings = list(coming)
        elif as_json:
            findings = list(coming)
            click.echo(report.as_json(findings, node), file=out)
        elif quick:
            findings = report.show_node(coming, node, out)
        else:
            findings = report.show(coming, out)
        out.flush()
    code = int(worst(findings) == "problem")
    if together or any(thread.name.startswith("doctor-") for thread in threading.enumerate()):
        # A check may hang still, other ranks may be gone: neither is to end this process badly.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    click.get_current_context().exit(code)

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


def run(settings: Settings | None, *, quick: bool, as_json: bool) -> None:
    """Examine this machine, print the report, exit with 1 if there is a problem."""
    node = node_name()
    with report.own_stdout() as out:
        coming = examine(settings, quick=quick)
        if as_json:
            findings = list(coming)
            click.echo(report.as_json(findings, node), file=out)
        elif quick:
            findings = report.show_node(coming, node, out)
        else:
            findings = report.show(coming, out)
        out.flush()
    code = int(worst(findings) == "problem")
    if any(thread.name.startswith("doctor-") for thread in threading.enumerate()):
        sys.stderr.flush()
        os._exit(code)  # a check still hangs, and would end the interpreter badly
    click.get_current_context().exit(code)

"""``rwp-dist doctor``: what on this machine would stop a run, and what to do about it.

::

    command     the entry: examine, report, exit code
    examine     all checks in their order
    finding     what a check yields, and how it is run
    machine     what checks know of this machine and the run
    software nvidia gpus cgroup limits disks run     the checks
    memory speed                                     what ``run`` estimates and measures
    ranks       one examination by all ranks of a job
    report      text and JSON

Imports no torch before a check needs it.
"""

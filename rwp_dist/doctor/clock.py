"""Clocks: W&B, object stores and certificates need the right time, and nodes the same one.

Sources, the best that there is: the ranks of a job, one on each node; the time that a shared file
system writes on a file made just now; the ``Date`` of the server that shards come from; and in any
case what the kernel knows of its own clock.
"""

import ctypes
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rwp_dist.doctor.case import Case
from rwp_dist.doctor.disks import NETWORK, existing, file_system
from rwp_dist.doctor.finding import Finding, State

GROUP = "clock"

APART_S = 2.0
"""Beyond this, log lines of two nodes, and ages of files, begin to lie."""

WRONG_S = 300.0
"""Beyond this, object stores and Kerberos refuse requests (S3 at 15 minutes, Kerberos at 5)."""

HTTP_S = 10.0
ROUNDS = 8

CURE = "Let the machine keep time (systemctl enable --now chronyd, or systemd-timesyncd)."


def against_output(case: Case) -> Iterator[Finding]:
    """The file system's clock, where it is another machine's: all nodes compare with the same."""
    folder = existing(case.run_dir)
    kind = file_system(folder)
    if kind not in NETWORK:
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".rwp-doctor-") as file:
            before = time.time()
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            after = time.time()
            theirs = Path(file.name).stat().st_mtime
    except OSError:
        return  # that it cannot be written to is another finding
    yield verdict("shared disk", _apart(theirs, before, after, 0.01), f"{folder} ({kind})")


def against_servers(case: Case) -> Iterator[Finding]:
    """The clock of the server that shards come from."""
    hosts = [s for s in case.sources if urlsplit(s).scheme in ("http", "https")]
    for host in list(dict.fromkeys(_root(source) for source in hosts))[:1]:
        before = time.time()
        try:
            with urlopen(Request(host, method="HEAD"), timeout=HTTP_S) as response:
                date = response.headers.get("Date")
        except HTTPError as error:  # an answer, too
            date = error.headers.get("Date")
        except OSError:
            return  # that it does not answer is another finding
        after = time.time()
        if date:
            theirs = parsedate_to_datetime(date).timestamp()
            yield verdict("shard server", _apart(theirs, before, after, 1.0), urlsplit(host).netloc)


def kernel(case: Case) -> Iterator[Finding]:
    """Whether something keeps the clock right, as the kernel knows it; never a problem alone."""
    synchronised = _is_synchronised()
    if synchronised is not None:
        text = "kept by a time service" if synchronised else "not known to be kept by any service"
        yield Finding(GROUP, "this machine", "ok", text, "", {"synchronised": synchronised})


def offset_to_main() -> float:
    """Seconds that rank 0's clock is ahead of this rank's. A collective of a gloo group.

    As NTP does: of several round trips the shortest tells most, and half of it is the error.
    """
    import torch
    import torch.distributed as dist

    rank, best = dist.get_rank(), (float("inf"), 0.0)
    stamp = torch.zeros(1, dtype=torch.float64)
    for other in range(1, dist.get_world_size()):
        for _ in range(ROUNDS):
            if rank == other:
                sent = time.time()
                dist.send(stamp, 0)
                dist.recv(stamp, 0)
                back = time.time()
                best = min(best, (back - sent, float(stamp) - (sent + back) / 2))
            elif rank == 0:
                dist.recv(stamp, other)
                stamp[0] = time.time()
                dist.send(stamp, other)
        dist.barrier()
    return best[1]


def between_nodes(offsets: Sequence[float], nodes: Sequence[str]) -> Finding:
    """The two clocks of a job that are furthest apart, from each rank's offset to rank 0."""
    first, last = (offsets.index(pick(offsets)) for pick in (min, max))
    apart_s = offsets[last] - offsets[first]
    return verdict("between nodes", apart_s, f"{nodes[first]} and {nodes[last]}")


def verdict(name: str, apart_s: float, what: str) -> Finding:
    """How far two clocks may be apart."""
    figures = {"apart_s": apart_s}
    if abs(apart_s) <= APART_S:
        return Finding(GROUP, name, "ok", f"{abs(apart_s):.2f} s apart: {what}", "", figures)
    state: State = "problem" if abs(apart_s) > WRONG_S else "warning"
    return Finding(GROUP, name, state, f"{abs(apart_s):.1f} s apart: {what}", CURE, figures)


def _apart(theirs: float, before: float, after: float, grain_s: float) -> float:
    """Seconds by which their clock, read in between and cut to a grain, must differ from ours."""
    if theirs > after:
        return theirs - after
    if theirs + grain_s < before:
        return theirs + grain_s - before
    return 0.0


def _root(source: str) -> str:
    scheme, host, *_ = urlsplit(source)
    return f"{scheme}://{host.rpartition('@')[2]}/"


def _is_synchronised() -> bool | None:
    """The kernel's flag, which time services renew; None where it cannot be asked."""
    buffer = ctypes.create_string_buffer(512)  # struct timex, all zero: ask only
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != 5  # TIME_ERROR

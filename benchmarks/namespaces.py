"""Ranks in network namespaces of their own, behind links of a limited rate (as root).

Every namespace has one end of a veth pair; the other ends meet at a bridge, in a namespace too.
``tc … tbf`` limits what each rank sends.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

LINK = "rwp0"
"""Name of a rank's end, in every namespace."""
BRIDGE = f"rwp-{os.getpid()}-bridge"


def ip(*words: str) -> None:
    """Run ``ip``; its own message comes with the error."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def name_of(rank: int) -> str:
    """A rank's namespace."""
    return f"rwp-{os.getpid()}-{rank}"


def address_of(rank: int) -> str:
    """A rank's address."""
    return f"10.213.77.{rank + 1}"


def limit_rate(rate: str, *where: str) -> None:
    """Limit what is sent on the link, such as ``1gbit``; ``where``: ``-n NAMESPACE``, or here."""
    limit = ["rate", rate, "burst", "256kb", "latency", "50ms"]
    tc = ["tc", *where, "qdisc", "replace", "dev", LINK, "root", "tbf", *limit]
    subprocess.run(tc, check=True, capture_output=True, text=True)


def lay_links(stack: ExitStack, num_ranks: int, rate: str) -> str:
    """Make namespaces and limited links between them; ``stack`` takes them down.

    Returns why that is not possible here; nothing if it is.
    """
    try:
        for name in (BRIDGE, *map(name_of, range(num_ranks))):
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)
        ip("-n", BRIDGE, "link", "add", "bridge", "type", "bridge")
        ip("-n", BRIDGE, "link", "set", "bridge", "up")
        for rank in range(num_ranks):
            name, port = name_of(rank), f"port{rank}"
            peer = ("peer", "name", port, "netns", BRIDGE)
            ip("link", "add", LINK, "netns", name, "type", "veth", *peer)
            ip("-n", BRIDGE, "link", "set", port, "master", "bridge", "up")
            ip("-n", name, "address", "add", f"{address_of(rank)}/24", "dev", LINK)
            ip("-n", name, "link", "set", LINK, "up")
            ip("-n", name, "link", "set", "lo", "up")
            limit_rate(rate, "-n", name)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        return f"network namespaces are not allowed here ({reason.strip()})"
    return ""


def run_ranks(num_ranks: int, script: str, arguments: Sequence[str]) -> int:
    """Run a script once in each namespace, as one rank each; the worst exit code."""
    ranks = []
    for rank in range(num_ranks):
        env = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_RANK": "0",
            "MASTER_ADDR": address_of(0),
            "MASTER_PORT": "29500",
            "GLOO_SOCKET_IFNAME": LINK,
        }
        command = ["ip", "netns", "exec", name_of(rank), sys.executable, script, *arguments]
        ranks.append(subprocess.Popen(command, env=env))
    # One that fails leaves the others waiting.
    while any(p.poll() is None for p in ranks) and not any(p.poll() for p in ranks):
        time.sleep(0.2)
    for process in ranks:
        process.terminate()
    return max(abs(process.wait()) for process in ranks)


def sent_bytes() -> int:
    """Bytes that this rank has put on its link."""
    return int(Path(f"/sys/class/net/{LINK}/statistics/tx_bytes").read_text())

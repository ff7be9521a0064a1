"""Whether noise hides behind a real, waiting network: two ranks, one link of 1 Gbit/s.

    OMP_NUM_THREADS=1 python benchmarks/overlap.py       (as root: it makes network namespaces)

Two ranks sit in two network namespaces that are joined by a veth pair, limited by ``tc … tbf`` in
both directions; gloo, ResNet-18. Methods take turns step by step. Bytes are those that the
kernel counted on the link. Namespaces are taken down again, also after an error.
"""

import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import click
import torch
import torch.distributed as dist
from engines import engine_step
from step import WARM_UP, noise_work, ratios

from rwp_dist.process import choose_device, process_group

METHODS = {
    "sgd": ("sgd", []),
    "m-rwp": ("m-rwp", []),
    "m-arwp": ("m-arwp", []),
    "m-rwp, in line": ("m-rwp", ["noise.prefetch=false"]),
    "sam": ("sam", []),
    "sgd, ZeRO-1": ("sgd", ["deepspeed.zero_stage=1"]),
    "m-rwp, ZeRO-1": ("m-rwp", ["deepspeed.zero_stage=1"]),
}
NAMES = (f"rwp-{os.getpid()}-0", f"rwp-{os.getpid()}-1")
ADDRESSES = ("10.213.77.1", "10.213.77.2")
LINK = "rwp0"


def ip(*words: str) -> None:
    """Run ``ip``; its own message comes with the error."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def lay_link(stack: ExitStack, rate: str) -> None:
    """Make both namespaces and the limited link between them; ``stack`` takes them down."""
    for name in NAMES:
        ip("netns", "add", name)
        stack.callback(ip, "netns", "delete", name)
    peers = [(LINK, "netns", name) for name in NAMES]
    ip("link", "add", *peers[0], "type", "veth", "peer", "name", *peers[1])
    for name, address in zip(NAMES, ADDRESSES, strict=True):
        ip("-n", name, "address", "add", f"{address}/24", "dev", LINK)
        ip("-n", name, "link", "set", LINK, "up")
        ip("-n", name, "link", "set", "lo", "up")
        limit = ["rate", rate, "burst", "256kb", "latency", "50ms"]
        tc = ["tc", "-n", name, "qdisc", "add", "dev", LINK, "root", "tbf", *limit]
        subprocess.run(tc, check=True, capture_output=True, text=True)


def run_ranks(arguments: list[str]) -> int:
    """This file once in each namespace, as one rank each."""
    ranks = []
    for rank, name in enumerate(NAMES):
        env = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": ADDRESSES[0],
            "MASTER_PORT": "29500",
            "GLOO_SOCKET_IFNAME": LINK,
        }
        command = ["ip", "netns", "exec", name, sys.executable, __file__, "--as-rank", *arguments]
        ranks.append(subprocess.Popen(command, env=env))
    # One that fails leaves the other waiting.
    while any(p.poll() is None for p in ranks) and not any(p.poll() for p in ranks):
        time.sleep(0.2)
    for process in ranks:
        process.terminate()
    return max(abs(process.wait()) for process in ranks)


def sent_bytes() -> int:
    """Bytes that this rank has put on the link."""
    return int(Path(f"/sys/class/net/{LINK}/statistics/tx_bytes").read_text())


def measure(model: str, size: int, batch: int, rounds: int) -> None:
    """What one rank does; rank 0 prints the table."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    with process_group(choose_device("cpu")):
        built = {
            name: engine_step(method, model, size, batch, overrides)
            for name, (method, overrides) in METHODS.items()
        }
        times: dict[str, list[float]] = {name: [] for name in METHODS}
        sent = dict.fromkeys(METHODS, 0)
        for number in range(rounds + WARM_UP):
            for name, (parts, step) in built.items():
                dist.barrier()
                before, begin = sent_bytes(), time.perf_counter()
                step(number)
                parts.perturbed.move.join()  # or the next method's step would hide it
                dist.barrier()
                if number >= WARM_UP:
                    times[name].append(time.perf_counter() - begin)
                    sent[name] += sent_bytes() - before
                else:
                    parts.perturbed.watch.take()
                    parts.perturbed.move.take_times()
        noise = {name: noise_work(parts.perturbed, rounds) for name, (parts, _) in built.items()}
        for parts, _ in built.values():
            parts.close()
        rank = dist.get_rank()
    if rank != 0:
        return
    print(
        f"{'step of':<16}{'median ms':>10}{'x sgd':>8}{'noise ms':>10}{'shows':>8}{'hidden':>8}"
        f"{'MB sent':>10}{'x sgd':>9}"
    )
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        line = (
            f"{name:<16}{middle * 1e3:10.1f}{statistics.median(ratios(seconds, times['sgd'])):8.3f}"
        )
        work, exposed, hidden = noise[name]
        line += f"{work * 1e3:10.1f}{exposed * 1e3:8.1f}{hidden:8.3f}" if work else f"{'':>26}"
        line += f"{sent[name] / rounds / 1e6:10.2f}{sent[name] / sent['sgd']:9.4f}"
        print(line)


@click.command()
@click.option("--model", default="resnet18", show_default=True)
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option("--batch", default=32, show_default=True, help="Images of one rank.")
@click.option("--rounds", default=20, show_default=True, help="Steps of every method.")
@click.option("--rate", default="1gbit", show_default=True, help="Of the link, as tc takes it.")
@click.option("--as-rank", is_flag=True, hidden=True)
def main(model: str, size: int, batch: int, rounds: int, rate: str, as_rank: bool) -> None:
    """Print the table."""
    if as_rank:
        measure(model, size, batch, rounds)
        return
    arguments = [f"--model={model}", f"--size={size}", f"--batch={batch}", f"--rounds={rounds}"]
    with ExitStack() as stack:
        try:
            lay_link(stack, rate)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or str(error)
            print(f"Skipped: network namespaces are not allowed here ({reason.strip()}).")
            return
        code = run_ranks(arguments)
    sys.exit(code)


if __name__ == "__main__":
    main()

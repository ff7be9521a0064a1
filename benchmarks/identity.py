"""What it costs at a start that all ranks agree on one identity.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/identity.py

Prints medians and the slowest of some rounds, in ms: to make an identity (read the manifests, hash
the code, ask git), and to exchange its digest.
"""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

import click
import torch.distributed as dist

from rwp_dist.config import load_settings
from rwp_dist.data import data_identity
from rwp_dist.process import choose_device, process_group
from rwp_dist.record import Identity, RunDir, commit_of, identity_of
from rwp_dist.run import agree


def milliseconds(part: Callable[[], object], rounds: int) -> list[float]:
    """How long each round of a part takes on this rank; all ranks begin it together."""
    times = []
    for _ in range(rounds):
        dist.barrier()
        begin = time.perf_counter()
        part()
        times.append(1e3 * (time.perf_counter() - begin))
    return times


@click.command()
@click.option("--rounds", default=30, show_default=True)
def main(rounds: int) -> None:
    """Print a line for each part."""
    with tempfile.TemporaryDirectory() as folder, process_group(choose_device("cpu")):
        write = ["rwp-dist", "shards", "digits", "--out", folder]
        subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
        places = [f"data.train={folder}/train", f"data.val={folder}/test"]
        settings = load_settings(None, places)

        def made() -> Identity:
            return identity_of(
                settings,
                ranks=dist.get_world_size(),
                data=data_identity(settings),
                git=commit_of(RunDir(folder), dirty=False),
            )

        identity = made()
        parts: dict[str, Callable[[], object]] = {
            "make the identity": made,
            "exchange it": lambda: agree(identity, allow_mixed_code=False),
        }
        for name, part in parts.items():
            times = milliseconds(part, rounds)
            if dist.get_rank() == 0:
                median, most = statistics.median(times), max(times)
                click.echo(f"{name:<20} {median:6.2f} ms, at most {most:6.2f}")


if __name__ == "__main__":
    main()

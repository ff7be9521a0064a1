"""How long a person waits for ``rwp-launch``: median of --repeats starts, each in a new process.

python benchmarks/launch.py
"""

import argparse
import statistics
import subprocess
import sys
import time

LAUNCH = [sys.executable, "-m", "launcher"]
CONFIG = "configs/digits.yaml"
COMMANDS = {
    "--help": ["--help"],
    "submit --dry-run": ["submit", CONFIG, "variant=m-rwp", "--dry-run"],
    "a settings error": ["submit", CONFIG, "method.sigma=-1", "batch.global=63"],
    "status, one run": ["status", "{run}"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--run", help="a run directory, to time `status` as well")
    chosen = parser.parse_args()
    print(f"{'command':18} {'median s':>9} {'most s':>9}")
    for name, arguments in COMMANDS.items():
        if "{run}" in arguments and chosen.run is None:
            continue
        command = [*LAUNCH, *(text.format(run=chosen.run) for text in arguments)]
        times = []
        for _ in range(chosen.repeats):
            begin = time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            times.append(time.perf_counter() - begin)
        print(f"{name:18} {statistics.median(times):9.3f} {max(times):9.3f}")


if __name__ == "__main__":
    main()

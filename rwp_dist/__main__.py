"""``rwp-dist``, also as ``python -m rwp_dist``, which torchrun starts as each rank."""

from rwp_dist.base.parent import end_with_parent
from rwp_dist.process import limits, rank, signals, streams, torchrun


def main() -> None:
    """Run the command line. Imports are inside, so that Ctrl-C is obeyed while they are made."""
    streams.prepare()
    if torchrun.by_agent():
        end_with_parent()
    rank.write_to_log()
    limits.raise_open_files()
    signals.exit_on_signals()
    from rwp_dist.base.home import provide_home

    provide_home()
    from rwp_dist.cli import main as commands

    try:
        commands(prog_name="rwp-dist")
    finally:
        signals.ignore_ctrl_c()


if __name__ == "__main__":
    main()

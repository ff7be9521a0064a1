"""``rwp-launch``, also as ``python -m launcher``."""

from rwp_dist.process import launchers, limits, signals, streams


def main() -> None:
    """Run the command line. Imports are inside, so that Ctrl-C is obeyed while they are made."""
    streams.prepare()
    launchers.forget_ranks()
    signals.exit_on_signals()
    limits.raise_open_files()
    from rwp_dist.base.home import provide_home

    provide_home()
    from launcher.cli import main as commands

    commands(prog_name="rwp-launch")


if __name__ == "__main__":
    main()

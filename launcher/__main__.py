"""``rwp-launch``, also as ``python -m launcher``."""

from rwp_dist.process import signals


def main() -> None:
    """Run the command line. Imports are inside, so that Ctrl-C is obeyed while they are made."""
    signals.exit_on_signals()
    from launcher.cli import main as commands

    commands(prog_name="rwp-launch")


if __name__ == "__main__":
    main()

"""``rwp-dist``, also as ``python -m rwp_dist``, which torchrun starts as each rank."""

from rwp_dist.process import rank, signals, torchrun


def main() -> None:
    """Run the command line. Imports are inside, so that Ctrl-C is obeyed while they are made."""
    if torchrun.by_torchrun():
        rank.end_with_parent()
        rank.write_to_log()
    signals.exit_on_signals()
    from rwp_dist.cli import main as commands

    try:
        commands(prog_name="rwp-dist")
    finally:
        signals.ignore_ctrl_c()


if __name__ == "__main__":
    main()

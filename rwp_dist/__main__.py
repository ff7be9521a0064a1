"""``python -m rwp_dist``, which torchrun's ``-m`` starts on every rank."""

from rwp_dist.process import rank

rank.settle()

from rwp_dist.cli import main  # noqa: E402 - an agent that dies meanwhile takes this along

main(prog_name="rwp-dist")

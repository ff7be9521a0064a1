"""``python -m rwp_dist``, which torchrun's ``-m`` starts on every rank."""

from rwp_dist.cli import main

main(prog_name="rwp-dist")

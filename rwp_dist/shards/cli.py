"""``rwp-dist shards ...``: make data sets, verify them and look at them."""

import click

from rwp_dist.shards.commands.index import adopt_command, index_command
from rwp_dist.shards.commands.look import stats_command, verify_command
from rwp_dist.shards.commands.ready_made import (
    cifar100_command,
    digits_command,
    mnist_command,
    synthetic_command,
)
from rwp_dist.shards.commands.write import write_command
from rwp_dist.shards.options import ShardCommands


@click.group(
    cls=ShardCommands, short_help="Make data as shards; describe them, check them, look at them."
)
def shards() -> None:
    """Everything about shards: the tar files, with a manifest, that training reads.

    Make them from your images (write), or index tars that you have (index), or take the counts
    that others give (adopt). Find out whether
    they are complete (verify) and what is in them (stats). Without data of your own: mnist and
    digits are small and real, cifar100 is read from its archive, synthetic has any size, for
    benchmarks.
    """


for command in (
    write_command,
    index_command,
    adopt_command,
    verify_command,
    stats_command,
    digits_command,
    mnist_command,
    cifar100_command,
    synthetic_command,
):
    shards.add_command(command)

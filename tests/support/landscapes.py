"""A small network and images in memory, as ``rwp_dist.flatness`` sees them."""

import torch

from rwp_dist.data.batch import Batch
from rwp_dist.flatness.landscape import Landscape, Sample
from support.small import SmallNet, small_net, small_samples, small_settings

NUM, BATCH = 44, 16
"""Two ranks get batches of unequal number, and the last one is not full."""


def small_sample(num: int = NUM, batch: int = BATCH) -> Sample:
    """Batches of one size, the last one filled up with copies of weight 0."""
    samples, count = small_samples(num), -(-num // batch) * batch
    rows = torch.arange(count) % num
    weights = (torch.arange(count) < num).float()
    parts = (samples.images[rows], samples.labels[rows], weights)
    batches = [Batch(*each) for each in zip(*(p.split(batch) for p in parts), strict=True)]
    return Sample(batches, num, f"{num} in batches of {batch}")


def small_landscape(net: SmallNet | None = None, seed: int = 0, name: str = "run") -> Landscape:
    """Of a network whose weights and statistics are not those of a fresh one."""
    net = net or trained_net(seed)
    return Landscape(name, net, small_settings(), small_sample())


def trained_net(seed: int = 0, steps: int = 60) -> SmallNet:
    """After some steps of plain SGD on the sample."""
    net, sample = small_net(seed), small_sample()
    landscape = Landscape("training", net, small_settings(), sample)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    net.train()
    for step in range(steps):
        batch = sample.batches[step % len(sample.batches)]
        (landscape.loss({}, batch) / BATCH).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net

"""A plain DistributedDataParallel loop with random weight perturbation in two lines (*).

torchrun --nproc-per-node 2 examples/plain_loop.py
"""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from rwp_dist.perturb import Perturbed  # *


def train(
    model: nn.Module, dataset: Dataset, batch_size: int, method: str, **options: Any
) -> dict[str, Any]:
    """Train once over the data set, which is in random order already; a checkpoint."""
    device = next(model.parameters()).device
    sampler = DistributedSampler(dataset, shuffle=False)
    loader = DataLoader(dataset, batch_size, sampler=sampler)
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(loader))
    noisy = Perturbed(ddp, method, seed=0, **options).attach(optimizer)  # *
    for images, labels in loader:
        loss = F.cross_entropy(ddp(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    # On all ranks. To resume: noisy.load_state_dict(checkpoint["noisy"]), likewise the others.
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "noisy": noisy}
    return {name: part.state_dict() for name, part in parts.items()}


if __name__ == "__main__":
    from digits import accuracy, network, training_set

    dist.init_process_group()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    model = network().to(device)
    train(model, training_set(200 * 128), 64, "m-rwp", sigma=0.3)
    if dist.get_rank() == 0:
        print(f"top-1 {accuracy(model):.1%}")
    dist.destroy_process_group()

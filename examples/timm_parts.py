"""A loop of timm's parts: its model, optimizer, scheduler and average of the weights.

torchrun --nproc-per-node 2 examples/timm_parts.py

Lines marked with * are for the perturbation. The average sees clean weights.
"""

import os
from typing import Any

import timm
import torch
import torch.distributed as dist
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from rwp_dist.perturb import Perturbed  # *


def train(
    model: nn.Module, dataset: Dataset, batch_size: int, method: str, **options: Any
) -> ModelEmaV3:
    """Train once over the data set, which is in random order already; the averaged weights."""
    device = next(model.parameters()).device
    sampler = DistributedSampler(dataset, shuffle=False)
    loader = DataLoader(dataset, batch_size, sampler=sampler)
    ddp = DistributedDataParallel(model)
    optimizer = create_optimizer_v2(model, "momentum", lr=0.05, weight_decay=0.0, momentum=0.9)
    scheduler = CosineLRScheduler(optimizer, t_initial=len(loader), t_in_epochs=False)
    average = ModelEmaV3(model, decay=0.99)
    Perturbed(ddp, method, seed=0, **options).attach(optimizer)  # *
    for step, (images, labels) in enumerate(loader):
        loss = F.cross_entropy(ddp(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step)
        scheduler.step_update(step + 1)
    return average


if __name__ == "__main__":
    from digits import accuracy, training_set

    dist.init_process_group()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", in_chans=1, num_classes=10).to(device)
    average = train(model, training_set(200 * 128), 64, "m-rwp", sigma=0.3)
    if dist.get_rank() == 0:
        print(f"top-1 {accuracy(model):.1%}, of the average {accuracy(average.module):.1%}")
    dist.destroy_process_group()

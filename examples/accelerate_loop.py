"""Hugging Face Accelerate; lines marked with * are for the perturbation.

torchrun --nproc-per-node 2 examples/accelerate_loop.py
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from rwp_dist.perturb import Perturbed  # *


def train(
    model: nn.Module,
    dataset: Dataset,
    batch_size: int,
    method: str,
    *,
    accelerator: Accelerator,
    **options: Any,
) -> None:
    """Train once over the data set, which is in random order already."""
    accumulate = accelerator.gradient_accumulation_steps
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    ddp, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(dataset, batch_size))
    num_updates = len(loader) // accumulate
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer.optimizer, num_updates)
    noisy = Perturbed(ddp, method, seed=0, **options)  # *
    noisy.attach(optimizer, micro_batches=accumulate)  # *
    accelerator.register_for_checkpointing(noisy)  # * for save_state and load_state
    for images, labels in loader:
        with accelerator.accumulate(ddp):
            loss = F.cross_entropy(ddp(images), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if accelerator.sync_gradients:
                scheduler.step()


if __name__ == "__main__":
    from digits import accuracy, network, training_set

    model, accelerator = network(), Accelerator(cpu=not torch.cuda.is_available())
    train(model, training_set(200 * 128), 64, "m-rwp", sigma=0.3, accelerator=accelerator)
    accelerator.print(f"top-1 {accuracy(model):.1%}")
    accelerator.end_training()

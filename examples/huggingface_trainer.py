"""The Trainer of Hugging Face, with random weight perturbation in two lines (*).

torchrun --nproc-per-node 2 examples/huggingface_trainer.py
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from rwp_dist.perturb import Perturbed  # *


class Classifier(nn.Module):
    """A network that returns its loss, as the Trainer expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss and logits of a batch."""
        logits = self.model(images)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A batch as keywords of ``Classifier.forward``."""
    images, labels = zip(*rows, strict=True)
    return {"images": torch.stack(images), "labels": torch.stack(labels)}


def train(
    model: nn.Module, dataset: Dataset, method: str, *, args: TrainingArguments, **options: Any
) -> None:
    """Train as the arguments say."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    classifier = Classifier(model)
    trainer = Trainer(
        classifier, args, collate, train_dataset=dataset, optimizers=(optimizer, None)
    )
    noisy = Perturbed(model, method, seed=0, **options)  # *
    noisy.attach(optimizer, micro_batches=args.gradient_accumulation_steps)  # *
    trainer.train()


if __name__ == "__main__":
    from digits import accuracy, network, training_set

    model = network()
    args = TrainingArguments(
        "runs/huggingface", per_device_train_batch_size=64, max_steps=200, report_to="none"
    )
    train(model, training_set(200 * 128), "m-rwp", sigma=0.05, args=args)
    if args.process_index == 0:
        print(f"top-1 {accuracy(model):.1%}")

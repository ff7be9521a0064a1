"""The Trainer of Hugging Face; lines marked with *, and SaveNoisy, are for the perturbation.

torchrun --nproc-per-node 2 examples/huggingface_trainer.py
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from rwp_dist.perturb import Perturbed  # *


class SaveNoisy(TrainerCallback):
    """Saves what the perturbation needs to go on exactly beside each checkpoint."""

    def __init__(self, noisy: Perturbed) -> None:
        self.noisy = noisy

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All ranks come here, and the first one writes."""
        saved = self.noisy.state_dict()
        if state.is_world_process_zero:
            torch.save(saved, f"{args.output_dir}/checkpoint-{state.global_step}/noisy.pt")


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
    model: nn.Module,
    dataset: Dataset,
    method: str,
    *,
    args: TrainingArguments,
    resume_from: str | None = None,
    **options: Any,
) -> None:
    """Train as the arguments say."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    parts = (optimizer, None)
    trainer = Trainer(Classifier(model), args, collate, train_dataset=dataset, optimizers=parts)
    scaler = trainer.accelerator.scaler  # of fp16
    noisy = Perturbed(model, method, seed=0, scaler=scaler, **options)  # *
    noisy.attach(optimizer, micro_batches=args.gradient_accumulation_steps)  # *
    trainer.add_callback(SaveNoisy(noisy))  # *
    if resume_from is not None:
        noisy.load_state_dict(torch.load(f"{resume_from}/noisy.pt"))  # *
    trainer.train(resume_from_checkpoint=resume_from)


if __name__ == "__main__":
    from digits import accuracy, network, training_set

    model = network()
    args = TrainingArguments(
        "runs/huggingface",
        per_device_train_batch_size=64,
        max_steps=200,
        use_cpu=not torch.cuda.is_available(),  # else two ranks without a GPU train two networks
        report_to="none",
    )
    train(model, training_set(200 * 128), "m-rwp", sigma=0.3, args=args)
    if args.process_index == 0:
        print(f"top-1 {accuracy(model):.1%}")

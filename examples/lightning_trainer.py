"""PyTorch Lightning: `Trainer.fit` as it is; lines marked with * are for the perturbation.

torchrun --nproc-per-node 2 examples/lightning_trainer.py
"""

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from rwp_dist.perturb import Perturbed  # *


class Classifier(lightning.LightningModule):
    """An ordinary module, which attaches the perturbation where it makes the optimizer."""

    def __init__(self, model: nn.Module, method: str, **options: Any) -> None:
        super().__init__()
        self.model, self.method, self.options = model, method, options
        self.saved: dict[str, Any] | None = None  # *

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Mean loss of a batch."""
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> Any:
        """SGD along a cosine."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.noisy = Perturbed(self.model, self.method, seed=0, **self.options)  # *
        self.noisy.attach(optimizer, micro_batches=self.trainer.accumulate_grad_batches)  # *
        if self.saved is not None:  # *
            self.noisy.load_state_dict(self.saved)  # *
        num_updates = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what the perturbation needs to go on exactly."""
        checkpoint["noisy"] = self.noisy.state_dict()  # *

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep it, because Lightning loads it before there is an optimizer."""
        self.saved = checkpoint["noisy"]  # *


def train(
    model: nn.Module,
    dataset: Dataset,
    batch_size: int,
    method: str,
    *,
    trainer: lightning.Trainer,
    resume_from: str | None = None,
    **options: Any,
) -> None:
    """Train over the data set, which Lightning shuffles."""
    module = Classifier(model, method, **options)
    trainer.fit(module, DataLoader(dataset, batch_size), ckpt_path=resume_from)


if __name__ == "__main__":
    from digits import accuracy, network, training_set

    model = network()
    trainer = lightning.Trainer(max_epochs=1, strategy="ddp", devices=2)
    train(model, training_set(200 * 128), 64, "m-rwp", sigma=0.3, trainer=trainer)
    if trainer.is_global_zero:
        print(f"top-1 {accuracy(model):.1%}")

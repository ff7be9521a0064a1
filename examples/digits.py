"""What the examples train: the digits of scikit-learn, and a small network."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

NUM_TRAIN = 1200


def _images_and_labels() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)


def network(seed: int = 0) -> nn.Module:
    """Logits ``[B, 10]`` of images ``[B, 1, 8, 8]``."""
    torch.manual_seed(seed)
    convolution = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(32 * 64, 10))


def training_set(size: int, seed: int = 0) -> TensorDataset:
    """So many training images and labels, drawn at random: to be read in order."""
    images, labels = _images_and_labels()
    drawn = torch.randint(NUM_TRAIN, (size,), generator=torch.Generator().manual_seed(seed))
    return TensorDataset(images[drawn], labels[drawn])


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Share of the test images that are classified right."""
    images, labels = _images_and_labels()
    device = next(model.parameters()).device
    model.eval()
    predicted = model(images[NUM_TRAIN:].to(device)).argmax(1).cpu()
    model.train()
    return float((predicted == labels[NUM_TRAIN:]).float().mean())

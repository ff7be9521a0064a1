"""The two small networks of the study, and how each is optimised."""

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from rwp_dist.config import load_settings
from rwp_dist.run import build_model

CNN = ("data.image_size=28", "model.name=small_cnn", "model.options={widths: [16, 32, 32]}")


class SmallViT(nn.Module):
    """A transformer of 64 channels on 16 patches: ``[B, 1, 28, 28]`` to ``[B, 10]``."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, stride=7)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1)
        output: torch.Tensor = self.head(self.norm(self.layers(tokens + self.position)[:, 0]))
        return output


LEARNING_RATES = {"mnist": 1.6, "fashion": 0.4}
"""Of the CNN: the best for sgd of 0.1, 0.4 and 1.6."""


def build(name: str, data: str, seed: int) -> tuple[nn.Module, Optimizer]:
    """``cnn`` with SGD or ``vit`` with AdamW; ``seed`` draws the weights.

    Learning rates and weight decays are the best for plain training.
    """
    if name == "vit":
        torch.manual_seed(seed)
        vit = SmallViT()
        return vit, AdamW(vit.parameters(), lr=2e-3, weight_decay=0.05)
    cnn = build_model(load_settings(None, [*CNN, f"run.seed={seed}"]))
    cnn = cnn.to(memory_format=torch.channels_last)
    return cnn, SGD(cnn.parameters(), lr=LEARNING_RATES[data], momentum=0.9, weight_decay=1e-4)

"""Plain vision transformers, as the good recipes for ImageNet-1k have them."""

from typing import Any

import torch
from torch import Tensor
from torchvision.models import VisionTransformer


class PlainViT(VisionTransformer):
    """torchvision's vision transformer without a class token and without learned positions.

    The position embedding is a fixed one of sines and cosines, and the head is one linear layer on
    the mean over all patches (Beyer, Zhai and Kolesnikov, "Better plain ViT baselines for
    ImageNet-1k", 2022, arXiv 2205.01580). The embedding is a buffer that no file keeps: it is
    neither trained nor decayed nor perturbed, and follows from the image size.
    """

    def __init__(self, image_size: int, patch_size: int, *sizes: int, **options: Any) -> None:
        """As torchvision's; ``hidden_dim`` must be a multiple of 4."""
        super().__init__(image_size, patch_size, *sizes, **options)
        del self.class_token, self.encoder.pos_embedding
        side = image_size // patch_size
        self.seq_length = side**2
        positions = sines_and_cosines(side, self.hidden_dim)
        self.encoder.register_buffer("pos_embedding", positions, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of images ``[B, 3, H, W]``."""
        patches: Tensor = self.encoder(self._process_input(images))  # [B, patches, hidden_dim]
        logits: Tensor = self.heads(patches.mean(1))
        return logits


def sines_and_cosines(side: int, width: int, longest: float = 10_000.0) -> Tensor:
    """Embedding of ``side`` x ``side`` patches, row by row: ``[1, side**2, width]``.

    A quarter of the channels each is ``sin(x / w)``, ``cos(x / w)``, ``sin(y / w)`` and
    ``cos(y / w)``, with w from 1 to ``longest`` in equal ratios, as in the code of the paper
    (google-research/big_vision, ``posemb_sincos_2d``).
    """
    lengths = longest ** torch.linspace(0, 1, width // 4, dtype=torch.float64)
    y, x = torch.meshgrid(*2 * [torch.arange(side, dtype=torch.float64)], indexing="ij")
    angles = [place.flatten()[:, None] / lengths for place in (x, y)]
    waves = [wave(angle) for angle in angles for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1).float()[None]


def plain_vit_s(num_classes: int, image_size: int, patch_size: int, **options: Any) -> PlainViT:
    """ViT-S: 12 layers of 6 heads and 384 channels, an MLP of 1,536."""
    return PlainViT(image_size, patch_size, 12, 6, 384, 1536, num_classes=num_classes, **options)


def plain_vit_b(num_classes: int, image_size: int, patch_size: int, **options: Any) -> PlainViT:
    """ViT-B: 12 layers of 12 heads and 768 channels, an MLP of 3,072."""
    return PlainViT(image_size, patch_size, 12, 12, 768, 3072, num_classes=num_classes, **options)

"""Small image sets whose every image is recognizable: tests of samplers and trainings draw from them."""

import numpy as np
import torch

from metacontrast.data.images import ClassImages, group_by_class


def numbered_images(counts: list[int], size: int = 4) -> ClassImages:
    """Class c has counts[c] images; image i of class c holds c in its left half and i in its right."""
    groups = []
    for c, count in enumerate(counts):
        images = np.zeros((count, 1, size, size), np.uint8)
        images[..., : size // 2] = c
        images[..., size // 2 :] = np.arange(count)[:, None, None, None]
        groups.append((f"class{c}", images))
    return group_by_class("numbered", groups)


def noisy_images(classes: int = 12, per_class: int = 20, size: int = 28, seed: int = 0) -> ClassImages:
    """Every class is one random image under noise: learnable, quickly."""
    rng = torch.Generator().manual_seed(seed)
    groups = []
    for c in range(classes):
        mean = torch.rand(1, 1, size, size, generator=rng)
        noise = 0.3 * torch.randn(per_class, 1, size, size, generator=rng)
        groups.append((f"class{c}", ((mean + noise).clamp(0, 1) * 255).to(torch.uint8).numpy()))
    return group_by_class(f"noisy{seed}", groups)

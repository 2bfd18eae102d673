"""A tiny model with random weights, and images that it can tell apart."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from metacontrast.classifier.starting_point import StartingPoint, from_run, save_starting_point
from metacontrast.training.config import TrainConfig
from metacontrast.training.run import TrainedRun

SIZE = 16


def tiny_run(channels: int = 1, head: str = "zeroed") -> TrainedRun:
    config = TrainConfig(dataset="folder:none", encoder="conv4", filters=24, image_size=SIZE, ways=3, head=head)
    model = config.model((channels, SIZE, SIZE))
    mean, std = ((0.2,) * channels, (0.4,) * channels)
    params = model.init(torch.Generator().manual_seed(0))
    return TrainedRun(config, model, params, 7, (channels, SIZE, SIZE), mean, std)


def tiny_start(channels: int = 1, head: str = "zeroed") -> StartingPoint:
    return from_run("tiny", tiny_run(channels, head))


def tiny_model_folder(folder: Path) -> Path:
    save_starting_point(tiny_start(), folder)
    return folder


def grey_images(classes: int = 3, per_class: int = 5, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """uint8 `(image, height, width)` and each one's class: a pattern of 4 × 4 greys under noise that `seed` draws."""
    patterns = np.random.default_rng(0).uniform(30, 225, (classes, 1, 4, 4)).repeat(SIZE // 4, 2).repeat(SIZE // 4, 3)
    noise = np.random.default_rng(seed + 1).normal(0, 8, (classes, per_class, SIZE, SIZE))
    images = np.clip(patterns + noise, 0, 255).astype(np.uint8).reshape(-1, SIZE, SIZE)
    return images, [f"class{c}" for c in range(classes) for _ in range(per_class)]


def write_folder(folder: Path, images: np.ndarray, labels: list[str]) -> Path:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / label / f"{number:03d}.png")
    return folder

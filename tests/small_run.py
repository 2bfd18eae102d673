"""A training so small that a test can run it a hundred times, and what it must always come to."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from metacontrast.model.encoders import Encoder
from metacontrast.training.checkpoint import load_state
from metacontrast.training.config import TrainConfig
from metacontrast.training.records import read_records
from metacontrast.training.run import load_kept, open_run
from metacontrast.training.train_run import train_run
from metacontrast.types import to_tensors
from toy_images import noisy_images

IMAGES = noisy_images(classes=4, per_class=4, size=8, seed=0), noisy_images(classes=4, per_class=4, size=8, seed=1)
SMALL = TrainConfig(
    encoder="mlp",
    filters=4,
    ways=2,
    queries=1,
    meta_batch=1,
    updates=3,
    eval_every=2,
    eval_episodes=2,
    checkpoint_every=1,
    keep_every=2,
)


def linear_encoder(name: str, image_shape: tuple[int, int, int], filters: int | None) -> Encoder:
    """In the place of `build_encoder`: where only files matter."""
    return Encoder(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), image_shape)


def train_small(path: Path, config: TrainConfig = SMALL, *, resume: bool = False, stop_after: int = 0) -> None:
    """Train, to the end or until so many updates are done."""
    done: list[int] = []
    with open_run(path, config, IMAGES, "cpu", resume=resume) as run:
        stop = lambda: done[-1] == stop_after  # noqa: E731
        train_run(config, run, *IMAGES, on_record=lambda record: done.append(record["update"]), should_stop=stop)


def content(path: Path) -> tuple[Any, ...]:
    """Everything that a training leaves, to be compared with `==`: its state, its records, its copies of the model."""
    stored = load_state(path)
    assert stored is not None
    tensors = {name: _bytes(t) for name, t in stored.tensors.items()}
    kept = [(run.updates, [_bytes(t) for t in to_tensors(run.params)]) for run in load_kept(path)]
    return stored.facts, tensors, read_records(path / "records.jsonl")[1:], kept


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()

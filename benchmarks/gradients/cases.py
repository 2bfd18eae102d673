"""What is timed: settings of the field, on random images.

The numbers in the images change nothing about the work, so no data set is needed.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from gradients.peers.job import Job
from metacontrast.model.encoders import build_encoder
from metacontrast.model.model import Model
from metacontrast.types import Episode, Order, Params, Scope, to_tensors

ORDERS: tuple[Order, ...] = ("first", "second")


@dataclass(frozen=True)
class Case:
    """One outer gradient: `tasks` tasks of `ways` classes on the encoder `conv4-released`.

    Args:
        image_shape: channels, height and width; grey images are halved by strides, colour images by max-pooling.
        filters: of every convolution.
        steps, lr, scope: of the inner loop.
        head: learned, or zeroed: then it starts at zero and its own gradient, which nothing uses, is not compared.
    """

    name: str
    image_shape: tuple[int, int, int]
    filters: int
    tasks: int
    steps: int
    lr: float
    scope: Scope = "all"
    ways: int = 5
    shots: int = 1
    queries: int = 15
    head: Literal["learned", "zeroed"] = "learned"

    @property
    def title(self) -> str:
        """The case in words."""
        channels, height, width = self.image_shape
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        moving = ", head only" if self.scope == "head" else ""
        start = ", zeroed head" if self.head == "zeroed" else ""
        return f"{height}×{width}×{channels}, {self.filters} filters, {self.tasks} tasks, {steps}{moving}{start}"


CASES = {
    case.name: case
    for case in (
        Case("a", (1, 28, 28), 64, tasks=32, steps=1, lr=0.4),
        Case("a0", (1, 28, 28), 64, tasks=32, steps=1, lr=0.4, head="zeroed"),
        Case("b", (3, 84, 84), 32, tasks=4, steps=5, lr=0.01),
        Case("b0", (3, 84, 84), 32, tasks=4, steps=5, lr=0.01, head="zeroed"),
        Case("c", (3, 84, 84), 64, tasks=4, steps=1, lr=0.01),
        Case("d", (1, 28, 28), 64, tasks=32, steps=1, lr=0.4, scope="head"),
        Case("d84", (3, 84, 84), 32, tasks=4, steps=5, lr=0.01, scope="head"),
    )
}


@dataclass(frozen=True)
class Layer:
    """One convolution of the encoder: square kernels on square maps of `size`×`size`, max-pooled afterwards or not."""

    channels: int
    filters: int
    kernel: int
    stride: int
    padding: int
    size: int
    pooled: bool

    @property
    def out_size(self) -> int:
        """Side of the map that it makes."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1


def build_model(case: Case) -> Model:
    """The model of the case, with a head that has a bias."""
    return Model(build_encoder("conv4-released", case.image_shape, case.filters), case.ways, head=case.head)


def layers(case: Case) -> tuple[Layer, ...]:
    """The convolutions of the case's encoder, in their order."""
    modules = list(build_model(case).encoder.modules())
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    pooled = any(isinstance(module, nn.MaxPool2d) for module in modules)
    size, found = case.image_shape[1], []
    for convolution in convolutions:
        layer = _layer(convolution, size, pooled)
        found.append(layer)
        size = layer.out_size // 2 if pooled else layer.out_size
    return tuple(found)


def write_job(case: Case, order: Order, device: str, folder: Path, seed: int) -> Job:
    """The case as every engine is asked for it, with its tensors in a file."""
    params, episodes = draw(case, seed)
    tensors = {f"p{i}": t for i, t in enumerate(to_tensors(params))} | episodes._asdict()
    file = folder / f"{case.name}.npz"
    arrays: dict[str, Any] = {name: t.numpy() for name, t in tensors.items()}
    np.savez(file, **arrays)
    values = dataclasses.asdict(case)
    shared = {name: values[name] for name in _JOB_FIELDS}
    all_layers = [dataclasses.asdict(layer) for layer in layers(case)]
    return Job(str(file), "", "float32", all_layers, order, device, **shared)


def case_of(job: Job) -> Case:
    """The case that a job is about."""
    values = {name: getattr(job, name) for name in _JOB_FIELDS}
    return Case(**values | {"image_shape": tuple(job.image_shape), "scope": cast(Scope, job.scope)})


_JOB_FIELDS = tuple(field.name for field in dataclasses.fields(Case))


def _layer(convolution: nn.Conv2d, size: int, pooled: bool) -> Layer:
    kernel, stride, padding = convolution.kernel_size[0], convolution.stride[0], int(convolution.padding[0])
    return Layer(convolution.in_channels, convolution.out_channels, kernel, stride, padding, size, pooled)


def draw(case: Case, seed: int) -> tuple[Params, Episode]:
    """Starting parameters and a batch of tasks."""
    generator = torch.Generator().manual_seed(seed)
    params = build_model(case).init(generator)
    counts = [case.ways * case.shots, case.ways * case.queries]
    images = [torch.rand(case.tasks, count, *case.image_shape, generator=generator) for count in counts]
    labels = [torch.arange(case.ways).repeat(case.tasks, count // case.ways) for count in counts]
    return params, Episode(images[0], labels[0], images[1], labels[1])

"""parallel-metalearn: its `MAML.step`, over all tasks at once by `vmap` (its default) or one after the other.

The outer optimizer steps by 0, so that the parameters stay as they are and the gradient can be read afterwards.
"""

from collections.abc import Callable
from typing import Any

import torch
from metalearn.algorithms import MAML  # pyright: ignore[reportMissingImports]
from metalearn.inner_optimizers import InnerSGD  # pyright: ignore[reportMissingImports]
from metalearn.loss import CategoricalAccuracy, CrossEntropy  # pyright: ignore[reportMissingImports]
from metalearn.model_wrappers import MAML_Model  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from .job import Job
from .network import Network


class _TakesFlags(nn.Module):
    """A module whose forward takes the keyword arguments that the library passes to every one."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return self.module(x)


def prepare(job: Job, backend: str = "vmap") -> Callable[[], list[Tensor]]:
    """One step of the library's MAML, or of its ANIL when only the head moves."""
    network, (support_x, support_y, query_x, query_y) = Network(job), job.batch()
    moving = {"fast_weights_names": "ANIL"} if job.scope == "head" else {}
    model = MAML_Model(backbone=_TakesFlags(network.encoder), head=_TakesFlags(network.head), **moving)
    maml = MAML(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        inner_optimizer=InnerSGD(
            initial_fast_weights=model.get_fast_weights(),
            inner_lr=job.lr,
            first_order=job.order == "first",
            learn_lr=False,
        ),
        support_loss_fn=CrossEntropy(metric_fn=CategoricalAccuracy()),
        inner_steps=job.steps,
        device=torch.device(job.device),
        backend=backend,
    )
    tasks = (support_x, {"labels": support_y}, query_x, {"labels": query_y})

    def run() -> list[Tensor]:
        maml.step(iter([tasks]), training=True)
        return [p.grad for p in network.parameters() if p.grad is not None]

    return run


def prepare_sequential(job: Job) -> Callable[[], list[Tensor]]:
    """The library's other backend: one task after the other."""
    return prepare(job, "sequential")

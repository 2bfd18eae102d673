"""`higher`: a patched copy of the module and a differentiable optimizer."""

from collections.abc import Callable

import higher  # pyright: ignore[reportMissingImports]
import torch
import torch.nn.functional as F
from torch import Tensor

from .job import Job
from .network import Network, fixed_and_moving, mean_gradient, support_features


def prepare(job: Job) -> Callable[[], list[Tensor]]:
    """Second order backward through the copy's history; first order without it, at the copy's last parameters."""
    network, episodes = Network(job), job.episodes()
    fixed, moving = fixed_and_moving(network, job)
    optimizer = torch.optim.SGD(moving.parameters(), lr=job.lr)
    second = job.order == "second"

    def run() -> list[Tensor]:
        network.zero_grad()
        for support_x, support_y, query_x, query_y in episodes:
            features = support_features(fixed, support_x, job)
            context = higher.innerloop_ctx(moving, optimizer, copy_initial_weights=False, track_higher_grads=second)
            with context as (copy, steps):
                for _ in range(job.steps):
                    steps.step(F.cross_entropy(copy(features), support_y))
                loss = F.cross_entropy(copy(fixed(query_x)), query_y)
                if second:
                    loss.backward()
                else:
                    _backward_at(
                        loss, [*fixed.parameters(), *moving.parameters()], [*fixed.parameters(), *copy.parameters()]
                    )
        return mean_gradient(network, job)

    return run


def _backward_at(loss: Tensor, params: list[Tensor], where: list[Tensor]) -> None:
    """Add to `params` the gradient of the loss at the parameters `where`."""
    for p, g in zip(params, torch.autograd.grad(loss, where), strict=True):
        p.grad = g if p.grad is None else p.grad.add_(g)

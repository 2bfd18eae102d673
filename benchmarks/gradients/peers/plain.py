"""MAML in plain PyTorch: one task after the other, `torch.func.functional_call` and `torch.autograd.grad`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from .job import Job
from .network import Network, fixed_and_moving, mean_gradient, support_features


def prepare(job: Job) -> Callable[[], list[Tensor]]:
    """The loop over tasks."""
    network, episodes = Network(job), job.episodes()
    fixed, moving = fixed_and_moving(network, job)

    def run() -> list[Tensor]:
        network.zero_grad()
        for support_x, support_y, query_x, query_y in episodes:
            fast: dict[str, Tensor] = dict(moving.named_parameters())
            features = support_features(fixed, support_x, job)
            for _ in range(job.steps):
                loss = F.cross_entropy(functional_call(moving, fast, (features,)), support_y)
                gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=job.order == "second")
                fast = {name: p - job.lr * g for (name, p), g in zip(fast.items(), gradients, strict=True)}
            F.cross_entropy(functional_call(moving, fast, (fixed(query_x),)), query_y).backward()
        return mean_gradient(network, job)

    return run

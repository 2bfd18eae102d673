"""TorchOpt: `MetaSGD` for second order; it has no first order, so there its functional `sgd` steps plain gradients."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchopt  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.func import functional_call

from .job import Job
from .network import Network, fixed_and_moving, mean_gradient, support_features


def prepare(job: Job) -> Callable[[], list[Tensor]]:
    """As the library's own few-shot example, but backward after every task, which needs less memory."""
    return _second(job) if job.order == "second" else _first(job)


def _second(job: Job) -> Callable[[], list[Tensor]]:
    network, episodes = Network(job), job.episodes()
    fixed, moving = fixed_and_moving(network, job)
    optimizer = torchopt.MetaSGD(moving, lr=job.lr)

    def run() -> list[Tensor]:
        network.zero_grad()
        start = torchopt.extract_state_dict(moving, by="reference")
        optimizer_start = torchopt.extract_state_dict(optimizer, by="reference")
        for support_x, support_y, query_x, query_y in episodes:
            features = support_features(fixed, support_x, job)
            for _ in range(job.steps):
                optimizer.step(F.cross_entropy(moving(features), support_y))
            F.cross_entropy(moving(fixed(query_x)), query_y).backward()
            torchopt.recover_state_dict(moving, start)
            torchopt.recover_state_dict(optimizer, optimizer_start)
        return mean_gradient(network, job)

    return run


def _first(job: Job) -> Callable[[], list[Tensor]]:
    network, episodes = Network(job), job.episodes()
    fixed, moving = fixed_and_moving(network, job)
    optimizer = torchopt.sgd(lr=job.lr)

    def run() -> list[Tensor]:
        network.zero_grad()
        for support_x, support_y, query_x, query_y in episodes:
            fast: dict[str, Tensor] = dict(moving.named_parameters())
            state = optimizer.init(tuple(fast.values()))
            features = support_features(fixed, support_x, job)
            for _ in range(job.steps):
                loss = F.cross_entropy(functional_call(moving, fast, (features,)), support_y)
                values = tuple(fast.values())
                updates, state = optimizer.update(torch.autograd.grad(loss, values), state, inplace=False)
                fast = dict(zip(fast, torchopt.apply_updates(values, updates, inplace=False), strict=True))
            F.cross_entropy(functional_call(moving, fast, (fixed(query_x),)), query_y).backward()
        return mean_gradient(network, job)

    return run

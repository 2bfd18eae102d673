"""learn2learn: a clone of its `MAML` wrapper for every task."""

from collections.abc import Callable

import learn2learn  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F
from torch import Tensor

from .job import Job
from .network import Network, fixed_and_moving, mean_gradient, support_features


def prepare(job: Job) -> Callable[[], list[Tensor]]:
    """As the library's own few-shot examples; when only the head moves, the head alone is wrapped."""
    network, episodes = Network(job), job.episodes()
    fixed, moving = fixed_and_moving(network, job)
    maml = learn2learn.algorithms.MAML(moving, lr=job.lr, first_order=job.order == "first")

    def run() -> list[Tensor]:
        network.zero_grad()
        for support_x, support_y, query_x, query_y in episodes:
            learner = maml.clone()
            features = support_features(fixed, support_x, job)
            for _ in range(job.steps):
                learner.adapt(F.cross_entropy(learner(features), support_y))
            F.cross_entropy(learner(fixed(query_x)), query_y).backward()
        return mean_gradient(network, job)

    return run

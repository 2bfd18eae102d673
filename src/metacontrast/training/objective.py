"""MAML's reformulation as an objective of training: the same outer updates without an inner loop (paper, Fig. 8, 9).

    encoder:  gradient of the contrastive loss, Eq. 7, 8, 14 completed, 16 and 22 with its sign corrected
    head:     gradient in closed form, Eq. 5, 9 and 20

It stands for an inner loop that moves the head alone, and then equals `metacontrast.maml` up to rounding. The released
code of the paper never moved the head in this mode.

Reference: Kao, Chiu and Chen, ICLR 2022, Sections 2.4 and 3.4.
"""

from concurrent.futures import Executor
from functools import partial

import torch
from torch import Tensor

from metacontrast.maml.engine import at_precision, mean_over_tasks
from metacontrast.maml.inner import Inner, task_losses
from metacontrast.maml.outer import Metrics
from metacontrast.model.model import Model, apply_head
from metacontrast.theory.head_updates import gradient_along
from metacontrast.theory.inner_loop import walk
from metacontrast.theory.losses import check_order, loss_along
from metacontrast.theory.task import FeatureTask, split_bias
from metacontrast.types import Episode, Params


def contrastive_gradient(
    model: Model,
    params: Params,
    episodes: Episode,
    inner: Inner,
    executor: Executor | None = None,
    *,
    drop_interference: bool = False,
    drop_noise: bool = False,
) -> tuple[Params, Metrics]:
    """The outer gradient of a batch of tasks from the contrastive loss, in place of `meta_gradient`.

    Args:
        inner: step size, number of steps and order of the head-only inner loop that the loss stands for.
        drop_interference, drop_noise: what to leave out of the encoder's loss; the head's gradient stays.
    """
    task = partial(
        contrastive_task_gradient,
        model,
        params,
        inner=inner,
        drop_interference=drop_interference,
        drop_noise=drop_noise,
    )
    return mean_over_tasks(at_precision("float32", task), params, episodes, executor)


def contrastive_task_gradient(
    model: Model, params: Params, episode: Episode, inner: Inner, **dropped: bool
) -> tuple[Params, Metrics]:
    """The same of one task; its metrics are those of the head after the inner steps, in closed form."""
    encoder = {name: t.detach().requires_grad_() for name, t in params.encoder.items()}
    head = model.start(params, episode.support_x, episode.support_y).head
    with torch.enable_grad():
        support = model.features(encoder, episode.support_x)
        query = model.query_features(encoder, episode.support_x, episode.query_x)
        task = FeatureTask(support, episode.support_y, query, episode.query_y, head)
        check_order(inner)
        path = walk(task, inner)
        loss = loss_along(path, task, **dropped)
        gradients = torch.autograd.grad(loss, list(encoder.values()), materialize_grads=True)
    gradient = Params(dict(zip(encoder, gradients, strict=True)), gradient_along(path, head))
    return gradient, _metrics(apply_head(split_bias(path.heads[-1], head), query.detach()), episode.query_y, inner)


def _metrics(logits: Tensor, labels: Tensor, inner: Inner) -> Metrics:
    accuracy = (logits.argmax(1) == labels).to(logits.dtype).mean()
    return Metrics(task_losses(logits, labels, inner.loss)[None], accuracy[None])

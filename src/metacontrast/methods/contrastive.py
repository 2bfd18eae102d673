"""MAML's reformulation in place of MAML: the same outer updates without an inner loop (paper, Fig. 8, 9).

    encoder:  gradient of the contrastive loss, Eq. 7, 8, 14 completed, 16 and 22 with its sign corrected
    head:     gradient in closed form, Eq. 5, 9 and 20

It stands for an inner loop that moves the head alone, and then equals `metacontrast.maml` up to rounding. The released
code of the paper never moved the head in this mode.

Reference: Kao, Chiu and Chen, ICLR 2022, Sections 2.4 and 3.4.
"""

import torch
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.maml.checks import check_method, check_tasks
from metacontrast.maml.inner import task_losses
from metacontrast.maml.outer import Metrics, accuracies
from metacontrast.model.model import Model, apply_head
from metacontrast.theory.head_updates import gradient_along
from metacontrast.theory.losses import contrastive_loss
from metacontrast.theory.task import FeatureTask, split_bias, walk
from metacontrast.types import Episode, Inner, Params


def contrastive(
    model: Model,
    params: Params,
    episode: Episode,
    inner: Inner,
    *,
    drop_interference: bool = False,
    drop_noise: bool = False,
) -> tuple[Params, Metrics]:
    """The outer gradient of one task from the contrastive loss.

    Args:
        inner: step size, number of steps and order of the head-only inner loop that the loss stands for.
        drop_interference, drop_noise: what to leave out of the encoder's loss; the head's gradient stays.

    Returns:
        The gradient, and the metrics of the head after the inner steps, in closed form.
    """
    check_method("contrastive", model, ("learned", "zeroed"), inner, params)
    if inner.scope != "head":
        raise InputError(
            f"contrastive stands for an inner loop of the head, not scope={inner.scope!r}: use scope='head'"
        )
    check_tasks(model, params, episode, inner.scope, (inner.loss, inner.loss))
    encoder = {name: t.detach().requires_grad_() for name, t in params.encoder.items()}
    head = model.start(params, episode.support_x, episode.support_y).head
    with torch.enable_grad():
        support = model.features(encoder, episode.support_x)
        query = model.query_features(encoder, episode.support_x, episode.query_x)
        task = FeatureTask(support, episode.support_y, query, episode.query_y, head)
        path = walk(task, inner)
        loss = contrastive_loss(task, inner, drop_interference=drop_interference, drop_noise=drop_noise, path=path)
        gradients = torch.autograd.grad(loss, list(encoder.values()), materialize_grads=True) if encoder else ()
    gradient = Params(dict(zip(encoder, gradients, strict=True)), gradient_along(path, head))
    return gradient, _metrics(apply_head(split_bias(path.heads[-1], head), query.detach()), episode.query_y, inner)


def _metrics(outputs: Tensor, labels: Tensor, inner: Inner) -> Metrics:
    return Metrics(task_losses(outputs, labels, inner.loss)[None], accuracies(outputs, labels)[None])

"""ConML: MAML whose adapted models are contrasted too, within a task and between tasks (Wu et al. 2024).

    mean over tasks of  L_t + λ (d(e_t(S), e_t(S ∪ Q)) − mean over the other tasks u of d(e_t(S ∪ Q), e_u(S ∪ Q)))

e_t(D) stands for the model that the inner loop makes of the images D of task t, d(a, b) = 1 − cos(a, b). The models of
one task should agree, those of different tasks should not. Three choices are made here: e_t is what the inner loop adds
to the parameters, because the parameters themselves are nearly equal for all tasks; the support set S is the one part
of a task's images that is compared with all of them; and tasks are compared in pairs, whose expectation is that of all
of an update's tasks.

With this e_t the objective has no gradient in first order, where e_t counts as a constant. From a head of zeros, one
step adds to row k of the head η/|D| Σ_s (1{t=k} − 1/K) φ(s): then the models that are contrasted are sums of
features by class, less their mean over the classes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.maml.checks import check_method, check_real, check_tasks
from metacontrast.maml.inner import autograd_vjp, task_losses, trajectory
from metacontrast.maml.outer import Metrics, accuracies
from metacontrast.model.model import Model, apply_head
from metacontrast.types import Episode, Inner, Params, from_tensors, head_tensors, to_tensors


def conml(
    model: Model, params: Params, episodes: Episode, inner: Inner, *, contrast_weight: float = 0.1
) -> tuple[Params, Metrics]:
    """The summed gradient of some tasks that are compared with one another.

    Args:
        episodes: two or more tasks, stacked along a leading axis.
        inner: the inner loop, of second order.
        contrast_weight: λ.
    """
    check_method("conml", model, ("learned", "zeroed"), inner)
    if inner.order != "second":
        raise InputError("conml has no gradient beyond MAML's in first order: use order='second'")
    if episodes.support_y.ndim == 1 or len(episodes.support_y) < 2:
        raise InputError("conml compares tasks, but was given one: let it take two or more at once (tasks_at_once=2)")
    if inner.loss_weights or params.step_norms:
        given = "loss_weights" if inner.loss_weights else "norms of their own after every inner step"
        raise InputError(f"conml compares models after the last inner step alone: leave out {given}")
    check_real("conml", params)
    check_tasks(model, params, episodes, inner.scope, (inner.loss, inner.outer_loss))
    support = episodes.support_x, episodes.support_y
    whole = torch.cat([support[0], episodes.query_x], 1), torch.cat([support[1], episodes.query_y], 1)

    def loss(*leaves: Tensor) -> tuple[Tensor, Metrics]:
        start = from_tensors(params, leaves)
        (first, *_, last), (whole_first, *_, whole_last) = (
            trajectory(model, start, *images, inner) for images in (support, whole)
        )
        outputs = apply_head(last.head, model.query_task_features(last.encoder, episodes.support_x, episodes.query_x))
        losses = task_losses(outputs, episodes.query_y, inner.outer_loss)
        contrast = meta_contrasts(added(model, first, last), added(model, whole_first, whole_last))
        return (losses + contrast_weight * contrast).sum(), Metrics(losses, accuracies(outputs, episodes.query_y))

    _, metrics, pull = autograd_vjp(loss, to_tensors(params), False)
    return from_tensors(params, pull()), Metrics(*map(Tensor.detach, metrics))


def added(model: Model, first: Params, last: Params) -> Float[Tensor, "task parameter"]:
    """What an inner loop added to the parameters of every task, in one row for each."""
    moved = last.encoder if model.has_task_axis(last.encoder) else {}
    parts = [tensor - first.encoder[name] for name, tensor in moved.items()]
    parts += [after - before for after, before in zip(head_tensors(last.head), head_tensors(first.head), strict=True)]
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def meta_contrasts(
    support: Float[Tensor, "task parameter"], whole: Float[Tensor, "task parameter"]
) -> Float[Tensor, " task"]:
    """The distance of a task's two models less the mean distance from its second one to those of the other tasks.

    >>> one, other = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> meta_contrasts(one, one), meta_contrasts(one, other)
    (tensor([-1., -1.]), tensor([0., 1.]))
    """
    support, whole = F.normalize(support, dim=1), F.normalize(whole, dim=1)
    others = whole.sum(0) - whole
    return (whole * others).sum(1) / (len(whole) - 1) - (support * whole).sum(1)

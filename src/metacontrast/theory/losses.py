"""MAML written as a contrastive loss: a loss without an inner loop whose encoder gradient is MAML's.

Per query sample, with everything in [·] under stop-gradient (paper, Eq. 7, 13 and 22),

    L = Σ_j [(q_j - 1{j=u}) w_j^0]ᵀ φ(q) + η E_s [c(q, s) φ(s)]ᵀ φ(q)

and for second order, one step (Eq. 14), φ(s) leaves the bracket. Eq. 14 still misses the path through the
support outputs; its gradient becomes SOMAML's with the head-curvature term Σ_s [δ(s)]ᵀ φ(s) of
`metacontrast.theory.decomposition`. A zeroed head leaves

    L = η E_s [q_t - 1{t=u}] φ(s)ᵀφ(q)                 first order with [φ(s)]: Eq. 8, 15; second: Eq. 16

Eq. 22 is printed with the sign of the negative gradient; here it is the loss itself, and one step gives Eq. 7.
The value of L means nothing by itself: it is linear in φ(q) and bounded on no side.

Reference: Kao, Chiu and Chen, ICLR 2022, Sections 2.4, B.4 - B.7 and C.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.theory.coefficients import contrastive_coefficients, zeroed_coefficients
from metacontrast.theory.decomposition import query_signals, support_signals
from metacontrast.theory.inner_loop import Trajectory, descend, softmax_outputs
from metacontrast.theory.task import FeatureTask, append_constant, check_inner, feature_task
from metacontrast.types import Head, Order


def contrastive_loss(
    support_features: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    query_features: Float[Tensor, "query feature"],
    query_y: Int[Tensor, " query"],
    head: Head,
    *,
    inner_lr: float,
    inner_steps: int = 1,
    order: Order = "first",
    drop_interference: bool = False,
    drop_noise: bool = False,
    drop_head_curvature: bool = False,
) -> Float[Tensor, ""]:
    """Mean over the query set of a loss whose gradient at the features is head-only MAML's.

    It gives the head no gradient: update it by `head_gradient` (Eq. 5, 9, 20) with the same arguments.

    Args:
        support_features, query_features: φ(s), φ(q), with their graph.
        support_y, query_y: labels t, u in [0, ways).
        head: w^0; a zeroed one turns Eq. 7 into Eq. 8 and Eq. 14 into Eq. 16.
        inner_lr, inner_steps: η and N_step; the second order has a loss for one step only.
        order: `"first"` (Eq. 7, 22) or `"second"` (Eq. 14, completed).
        drop_interference: leave out the first term (Fig. 9, "ITF").
        drop_noise: leave -Σ_j q_j s_j + s_u out of the coefficients (Fig. 9, "nCTT").
        drop_head_curvature: leave δ(s) out, which gives Eq. 14 as printed.

    With a zeroed head, η = 2 and φ(q) = φ(s_0), the pull of 1/(1 + e) meets φ(s_0)ᵀφ(q) = 1:

    >>> zero = Head(torch.zeros(2, 2), None)
    >>> y = torch.tensor([0, 1])
    >>> contrastive_loss(torch.eye(2), y, torch.eye(2)[:1], y[:1], zero, inner_lr=2.0)
    tensor(-0.2689)
    """
    check_inner(inner_lr, inner_steps, order)
    if order == "second" and inner_steps > 1:
        raise InputError(
            f"order='second' has no contrastive loss for inner_steps={inner_steps}: use 1 step, "
            "or take the gradient from split_encoder_gradient, exact for any number"
        )
    task, trajectory = walk(support_features, support_y, query_features, query_y, head, inner_lr, inner_steps)
    support, query = append_constant(support_features, head), append_constant(query_features, head)
    anchors = support if order == "second" else task.support
    c = coefficients(task, trajectory, drop_noise)
    loss = inner_lr * (c * (query @ anchors.T)).mean()
    if not drop_interference:
        loss = loss + (query_signals(task, trajectory, inner_lr)[0] * query).sum()
    if order == "second" and not drop_head_curvature:
        loss = loss + (support_signals(task, trajectory, inner_lr)[1] * support).sum()
    return loss


@torch.no_grad()
def walk(
    support_features: Tensor,
    support_y: Tensor,
    query_features: Tensor,
    query_y: Tensor,
    head: Head,
    inner_lr: float,
    inner_steps: int,
) -> tuple[FeatureTask, Trajectory]:
    """The task and its inner loop under stop-gradient."""
    frozen = Head(head.weight.detach(), None if head.bias is None else head.bias.detach())
    task = feature_task(support_features.detach(), support_y, query_features.detach(), query_y, frozen)
    return task, descend(task.support, task.support_y, task.head, inner_lr, inner_steps)


def coefficients(task: FeatureTask, trajectory: Trajectory, drop_noise: bool) -> Float[Tensor, "query support"]:
    """c(q, s) of the loss, with or without its noise."""
    q = softmax_outputs(task.query, trajectory.heads[-1])
    if drop_noise:
        return len(trajectory.support_probs) * zeroed_coefficients(q, task.query_y, task.support_y)
    return contrastive_coefficients(q, task.query_y, trajectory.support_probs, task.support_y)

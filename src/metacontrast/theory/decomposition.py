"""The outer gradient of MAML taken apart: interference, contrast, and the curvature of the head.

The encoder stands still in the inner loop. L is the mean cross entropy of the adapted head w^N over the
query set. Then

    ∂L/∂φ(q) = 1/|Q| Σ_j (q_j - 1{j=u}) w_j^0                        interference             Eq. 6, 12, 21
             + η/(|S||Q|) Σ_s c(q, s) φ(s)                           contrastive, query side
    ∂L/∂φ(s) = η/|S| Σ_p Σ_k (1{k=t} - s_k^{p-1}) λ_k^p              contrastive, support side
             - η/|S| Σ_p Σ_k r_k^p(s) w_k^{p-1}                      head curvature

First order keeps ∂L/∂φ(q) alone. λ^p = ∂L/∂w^p and r^p are those of `metacontrast.theory.inner_loop`. With
one step, λ^1 = g is the query features' own sum, and the support side reads

    η/(|S||Q|) Σ_q c(q, s) φ(q)        and        δ(s) = -η/|S| Σ_k (g_kᵀφ(s)) s_k (w_k^0 - Σ_j s_j w_j^0)

The paper's second-order loss (Eq. 14) has the former and lacks δ, which enters because the outputs s_k
depend on φ(s). With one step and equal rows w^0, zero in particular, δ vanishes; with more steps it does not, for the
rows of w^1 differ, but then it lies in the span of this task's own support features and holds nothing of earlier ones.

Reference: Kao, Chiu and Chen, ICLR 2022, Sections 2.3, B.3 - B.5 and C.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.theory.coefficients import contrastive_coefficients
from metacontrast.theory.inner_loop import (
    Trajectory,
    adjoints,
    descend,
    query_errors,
    softmax_outputs,
    softmax_vjp,
)
from metacontrast.theory.task import FeatureTask, check_inner, feature_task, strip_constant, targets
from metacontrast.types import Head, Order


class FeatureGradient(NamedTuple):
    """Error signals at the features of one task; the two of the support set are zero in first order."""

    interference: Float[Tensor, "query feature"]
    contrastive_query: Float[Tensor, "query feature"]
    contrastive_support: Float[Tensor, "support feature"]
    head_curvature: Float[Tensor, "support feature"]

    @property
    def query(self) -> Float[Tensor, "query feature"]:
        """∂L/∂φ(q), all of it."""
        return self.interference + self.contrastive_query

    @property
    def support(self) -> Float[Tensor, "support feature"]:
        """∂L/∂φ(s), all of it."""
        return self.contrastive_support + self.head_curvature


@torch.no_grad()
def split_feature_gradient(
    support_features: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    query_features: Float[Tensor, "query feature"],
    query_y: Int[Tensor, " query"],
    head: Head,
    *,
    inner_lr: float,
    inner_steps: int = 1,
    order: Order = "first",
) -> FeatureGradient:
    """MAML's error signals at the features of one task, in four parts; exact for any number of steps.

    Args:
        support_features, query_features: φ(s), φ(q) under the meta-learned encoder.
        support_y, query_y: labels t, u in [0, ways).
        head: w^0, rows are classes, with or without a bias.
        inner_lr, inner_steps: η and N_step of the inner loop, which moves the head only.
        order: `"first"` (FOMAML) or `"second"` (SOMAML).

    A zeroed head does not interfere. With one orthogonal support image per class and η = 2 the logits of q
    = φ(s_0) are (1/2, -1/2), and it is pulled along φ(s_0) - φ(s_1) with weight η/|S| · q_1 = 1/(1 + e):

    >>> zero = Head(torch.zeros(2, 2), None)
    >>> y = torch.tensor([0, 1])
    >>> parts = split_feature_gradient(torch.eye(2), y, torch.eye(2)[:1], y[:1], zero, inner_lr=2.0)
    >>> parts.interference
    tensor([[0., 0.]])
    >>> parts.contrastive_query
    tensor([[-0.2689,  0.2689]])
    """
    check_inner(inner_lr, inner_steps, order)
    task = feature_task(support_features, support_y, query_features, query_y, head)
    trajectory = descend(task.support, task.support_y, task.head, inner_lr, inner_steps)
    if order == "second":
        support_parts = support_signals(task, trajectory, inner_lr)
    else:
        support_parts = torch.zeros_like(task.support), torch.zeros_like(task.support)
    parts = (*query_signals(task, trajectory, inner_lr), *support_parts)
    return FeatureGradient(*(strip_constant(part, head) for part in parts))


def query_signals(task: FeatureTask, trajectory: Trajectory, inner_lr: float) -> tuple[Tensor, Tensor]:
    """Interference and contrastive part at the query features, Eq. 6 and 21 over |Q|."""
    interference = query_errors(task, trajectory) @ task.head
    q = softmax_outputs(task.query, trajectory.heads[-1])
    c = contrastive_coefficients(q, task.query_y, trajectory.support_probs, task.support_y)
    contrastive = inner_lr / len(task.support) * c @ task.support
    return interference / len(task.query), contrastive / len(task.query)


def support_signals(task: FeatureTask, trajectory: Trajectory, inner_lr: float) -> tuple[Tensor, Tensor]:
    """Contrastive part and head curvature at the support features, summed over the inner steps."""
    contrastive, curvature = torch.zeros_like(task.support), torch.zeros_like(task.support)
    lam = adjoints(task, trajectory, inner_lr)
    for s, w, lam_p in zip(trajectory.support_probs, trajectory.heads[:-1], lam[1:], strict=True):
        contrastive += (targets(task.support_y, s) - s) @ lam_p
        curvature -= softmax_vjp(s, task.support @ lam_p.T) @ w
    rate = inner_lr / len(task.support)
    return rate * contrastive, rate * curvature

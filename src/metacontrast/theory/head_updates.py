"""What one task does to the linear head, in closed form, when the encoder stands still in the inner loop.

    inner step           w_k^p = w_k^{p-1} + η E_s[(1{k=t} - s_k^{p-1}) φ(s)]             Eq. 4, 17, 18
    first-order outer    w_k ← w_k^0 + ρ E_q[(1{k=u} - q_k) φ(q)]                         Eq. 5, 20
    second-order outer   w_k ← w_k^0 - ρ λ_k^0, a factor I - η Hessian per inner step     Eq. 9 - 11, 19

Here s^{p-1} are the support outputs before inner step p and q the query outputs after the last. Eq. 18
carries a minus sign in print where Eq. 17 gives a plus. Sums over tasks in the paper are means here.

Reference: Kao, Chiu and Chen, ICLR 2022, Sections 2.3, B.1, B.2 and C.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.theory.inner_loop import adjoints, descend, softmax_outputs
from metacontrast.theory.task import append_constant, check_head, check_inner, feature_task, merge_bias, split_bias
from metacontrast.types import Head, Order


@torch.no_grad()
def adapted_heads(
    support_features: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    head: Head,
    *,
    inner_lr: float,
    inner_steps: int = 1,
) -> list[Head]:
    """The heads w^0, w^1 … w^N of the inner loop, Eq. 4, 17 and 18.

    From zero, each row moves along its own class's features and against the others', by η/|S| times 1 - 1/2
    or 1/2:

    >>> zero = Head(torch.zeros(2, 2), None)
    >>> adapted_heads(torch.eye(2), torch.tensor([0, 1]), zero, inner_lr=4.0)[-1].weight
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    check_head(support_features, support_y, head)
    check_inner(inner_lr, inner_steps)
    extended = append_constant(support_features, head)
    heads = descend(extended, support_y, merge_bias(head), inner_lr, inner_steps).heads
    return [split_bias(w, head) for w in heads]


@torch.no_grad()
def head_gradient(
    support_features: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    query_features: Float[Tensor, "query feature"],
    query_y: Int[Tensor, " query"],
    head: Head,
    *,
    inner_lr: float,
    inner_steps: int = 1,
    order: Order = "first",
) -> Head:
    """Gradient of the mean query loss that MAML gives to the initial head.

    `order="first"` is Eq. 5 and 20 without -ρ; `order="second"` is Eq. 9 (one step) and Eq. 19 (more).
    """
    check_inner(inner_lr, inner_steps, order)
    task = feature_task(support_features, support_y, query_features, query_y, head)
    trajectory = descend(task.support, task.support_y, task.head, inner_lr, inner_steps)
    return split_bias(adjoints(task, trajectory, inner_lr)[-1 if order == "first" else 0], head)


def head_update(
    support_features: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    query_features: Float[Tensor, "query feature"],
    query_y: Int[Tensor, " query"],
    head: Head,
    *,
    inner_lr: float,
    outer_lr: float,
    inner_steps: int = 1,
    order: Order = "first",
) -> Head:
    """The initial head after one outer step of gradient descent, Eq. 5, 9, 10, 19 and 20.

    Args:
        support_features, query_features: φ(s), φ(q) of one task; for several tasks average what this returns.
        support_y, query_y: labels t, u in [0, ways).
        head: w^0, rows are classes; a bias is updated too.
        inner_lr, outer_lr: step sizes η, ρ.
        inner_steps: N_step.
        order: `"first"` (FOMAML) or `"second"` (SOMAML).

    A head at zero that learns nothing from the support set (η = 0) moves along (1{k=u} - 1/2) φ(q):

    >>> zero = Head(torch.zeros(2, 2), None)
    >>> y, q = torch.tensor([0, 1]), torch.tensor([[1.0, 3.0]])
    >>> head_update(torch.eye(2), y, q, y[:1], zero, inner_lr=0.0, outer_lr=2.0).weight
    tensor([[ 1.,  3.],
            [-1., -3.]])
    """
    step = head_gradient(
        support_features,
        support_y,
        query_features,
        query_y,
        head,
        inner_lr=inner_lr,
        inner_steps=inner_steps,
        order=order,
    )
    bias = None if head.bias is None or step.bias is None else head.bias.detach() - outer_lr * step.bias
    return Head(head.weight.detach() - outer_lr * step.weight, bias)


class Preconditioner(NamedTuple):
    """I - ηH_k of every class, with its eigenvalues in ascending order and its condition number."""

    matrix: Float[Tensor, "way feature feature"]
    eigenvalues: Float[Tensor, "way feature"]
    condition_number: Float[Tensor, " way"]


@torch.no_grad()
def head_preconditioner(
    support_features: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    head: Head,
    *,
    inner_lr: float,
) -> Preconditioner:
    """What the second order multiplies the head's step by, I - ηH_k with H_k = E_s[s_k φ(s)φ(s)ᵀ] (Eq. 10,
    Fig. 7).

    H_k is not the Hessian of the inner loss: its block (k, m) is E_s[s_k (1{k=m} - s_m) φ(s)φ(s)ᵀ]. On a
    step whose rows sum to zero over classes, as every outer step's do, a zeroed head makes the two agree
    (Eq. 11); else the rest is the third term of Eq. 9. With a bias φ(s) carries a final 1. The condition
    number is max|λ| / min|λ|. An eigenvalue below zero means that η overshoots: the step reverses in
    that direction, and below -1 it also grows.

    >>> zero = Head(torch.zeros(2, 2), None)
    >>> head_preconditioner(2 * torch.eye(2), torch.tensor([0, 1]), zero, inner_lr=0.5).eigenvalues[0]
    tensor([0.5000, 0.5000])
    """
    check_head(support_features, support_y, head)
    check_inner(inner_lr, 1)
    phi = append_constant(support_features, head)
    s = softmax_outputs(phi, merge_bias(head))
    curvature = torch.einsum("sk,sf,sg->kfg", s, phi, phi) / len(phi)
    matrix = torch.eye(phi.shape[1], dtype=phi.dtype, device=phi.device) - inner_lr * curvature
    eigenvalues = torch.linalg.eigvalsh(matrix)
    size = eigenvalues.abs()
    return Preconditioner(matrix, eigenvalues, size.amax(-1) / size.amin(-1))

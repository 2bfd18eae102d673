"""The head's walk through the inner loop, forwards and backwards, in closed form.

Forwards (paper, Eq. 4 and 17), with s^{p-1} the softmax outputs of the support sample s under w^{p-1}:

    w_k^p = w_k^{p-1} + η E_s[(1{k=t} - s_k^{p-1}) φ(s)]

Backwards, λ^p = ∂L_Q/∂w^p starts at λ_k^N = E_q[(q_k - 1{k=u}) φ(q)] and takes one factor of the product in
Eq. 19 per step:

    λ_k^{p-1} = λ_k^p - η E_s[ r_k(s) φ(s) ],        r_k(s) = s_k (z_k - Σ_j s_j z_j),        z_k = φ(s)ᵀλ_k^p

r is the softmax's Jacobian applied to z, and E_s[r_k φ(s)] is the Hessian of the inner loss applied to λ.
The paper prints only the case N = 1, as Eq. 9. The encoder stands still throughout.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.theory.task import FeatureTask, append_constant, check_task, merge_bias, targets
from metacontrast.types import Inner, Order


class Trajectory(NamedTuple):
    """The inner loop of one task in coordinates without a bias, see `metacontrast.theory.task`; nothing has a graph.

    Args:
        support, query: features φ̃.
        support_y, query_y: labels t, u.
        lr, order: η, and whether the outer gradient runs through the loop.
        heads: w̃^0 … w̃^N.
        support_probs: s^0 … s^{N-1}, the support outputs that moved them.
        query_probs: q, the query outputs after the last step.
    """

    support: Float[Tensor, "support feature"]
    support_y: Int[Tensor, " support"]
    query: Float[Tensor, "query feature"]
    query_y: Int[Tensor, " query"]
    lr: float
    order: Order
    heads: Float[Tensor, "heads way feature"]
    support_probs: Float[Tensor, "step support way"]
    query_probs: Float[Tensor, "query way"]


@torch.no_grad()
def walk(task: FeatureTask, inner: Inner) -> Trajectory:
    """Check a task and run its inner loop on the head, Eq. 17."""
    check_task(task, inner)
    support, query = (append_constant(t.detach(), task.head) for t in (task.support, task.query))
    heads, outputs = [merge_bias(task.head).detach()], []
    for _ in range(inner.steps):
        s = softmax_outputs(support, heads[-1])
        heads.append(heads[-1] + inner.lr / len(support) * (targets(task.support_y, s) - s).T @ support)
        outputs.append(s)
    q = softmax_outputs(query, heads[-1])
    labelled = support, task.support_y, query, task.query_y
    return Trajectory(*labelled, inner.lr, inner.order, torch.stack(heads), torch.stack(outputs), q)


def softmax_outputs(
    features: Float[Tensor, "image feature"], head: Float[Tensor, "way feature"]
) -> Float[Tensor, "image way"]:
    """s or q: the softmax of a linear head's outputs."""
    return (features @ head.T).softmax(dim=-1)


def query_errors(path: Trajectory) -> Float[Tensor, "query way"]:
    """q_k - 1{k=u} under the adapted head."""
    return path.query_probs - targets(path.query_y, path.query_probs)


def softmax_vjp(outputs: Float[Tensor, "image way"], z: Float[Tensor, "image way"]) -> Float[Tensor, "image way"]:
    """r_k = s_k (z_k - Σ_j s_j z_j), the softmax's Jacobian applied to z."""
    return outputs * (z - (outputs * z).sum(dim=-1, keepdim=True))


def adjoints(path: Trajectory) -> Float[Tensor, "heads way feature"]:
    """λ^0 … λ^N, gradients of the mean query loss with respect to each head of the trajectory."""
    lam = [query_errors(path).T @ path.query / len(path.query)]
    for s in path.support_probs.flip(0):
        r = softmax_vjp(s, path.support @ lam[0].T)
        lam.insert(0, lam[0] - path.lr / len(path.support) * r.T @ path.support)
    return torch.stack(lam)
